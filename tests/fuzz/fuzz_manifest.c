/* Fuzz target: the manifest of a checkpoint. What is accepted can be written again and is the same; nothing crashes,
 * leaks, or names a file outside its directory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ckpt_manifest m, again;
    char *text = NULL;
    size_t len = 0;
    if (ckpt_manifest_parse("fuzz", (const char *)data, n, &m) >= 0) {
        for (size_t i = 0; i < m.nfiles; i++)
            must(!strchr(m.file[i].path, '/') && m.file[i].path[0] != '.', m.file[i].path);
        for (size_t i = 0; i < m.table.nsets; i++) must(m.table.set[i].elements > 0, "an empty piece");
        must(ckpt_manifest_format(&m, &m.table, &text, &len) >= 0, weft_last_error());
        must(ckpt_manifest_parse("again", text, len, &again) >= 0, weft_last_error());
        must(again.table.nsets == m.table.nsets && again.nfiles == m.nfiles && again.step == m.step,
             "another manifest");
        ckpt_manifest_free(&again);
        free(text);
    }
    ckpt_manifest_free(&m);
    return 0;
}
