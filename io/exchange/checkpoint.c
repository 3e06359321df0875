/* A checkpoint of weft as a model format: its weights are the tensors "model/NAME", its fp32 masters, where the run
 * computed in another type, "optim/master/NAME"; config.json stands beside them. Only a run writes one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/checkpoint/reader.h"
#include "io/exchange/format.h"
#include "io/exchange/hf.h"
#include "io/exchange/llmc.h"

static int checkpoint_detect(const char *path) {
    struct stat st;
    char *manifest = weft_path_join(path, CKPT_MANIFEST_FILE);
    const int found = manifest && stat(manifest, &st) == 0;
    free(manifest);
    return found;
}

static weft_status checkpoint_describe(const char *path, weft_model_desc *m) {
    ckpt_reader *r;
    char *text = NULL;
    size_t n = 0;
    WEFT_TRY(ckpt_reader_open(path, &r));
    weft_status s = ckpt_reader_extra(r, "config.json", &text, &n);
    if (s == WEFT_ERR_NOTFOUND)
        s = weft_fail(WEFT_ERR_FORMAT, "%s is a checkpoint, but not of a model", path);
    if (s >= 0) s = weft_hf_config_parse(path, text, n, m);
    free(text);
    ckpt_reader_close(r);
    return s;
}

static weft_status checkpoint_import(const char *path, const weft_model_desc *m, const weft_named *t,
                                     size_t n) {
    (void)m;
    ckpt_reader *r = NULL;
    char(*name)[WEFT_CKPT_NAME_MAX] = weft_calloc(n, sizeof *name);
    weft_ckpt_part *part = weft_calloc(n, sizeof *part);
    weft_ckpt_load_opts o = {.size = sizeof o, .partial = 1};
    weft_status s = name && part ? ckpt_reader_open(path, &r) : WEFT_ERR_NOMEM;
    for (size_t i = 0; s >= 0 && i < n; i++) {
        snprintf(name[i], sizeof name[i], "optim/master/%s", t[i].name);
        if (!ckpt_table_find(&ckpt_reader_manifest(r)->table, name[i]))
            snprintf(name[i], sizeof name[i], "model/%s", t[i].name);
        part[i] = (weft_ckpt_part){.name = name[i], .dtype = t[i].t, .ndim = t[i].ndim, .ptr = t[i].ptr};
        memcpy(part[i].shape, t[i].shape, sizeof t[i].shape);
    }
    if (s >= 0) s = ckpt_reader_load(r, part, n, &o);
    ckpt_reader_close(r);
    free(name);
    free(part);
    return s;
}

const weft_format checkpoint_format = {
    .name = "weft",
    .summary = "a checkpoint of weft",
    .directory = 1,
    .detect = checkpoint_detect,
    .describe = checkpoint_describe,
    .import = checkpoint_import,
};
