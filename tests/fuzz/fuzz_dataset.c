/* Fuzz target: what io/dataset and io/container parse from outside. The first byte chooses: a line of JSONL,
 * the state of a data stream, the catalogue of a container. Nothing may crash, leak, or accept what it should
 * refuse. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/container/layout.h"
#include "io/dataset/dataset.h"
#include "io/dataset/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A stream of two sources over one small shard; made once. */
static weft_data *stream(void) {
    static weft_data *d;
    if (d) return d;
    char path[] = "/tmp/fuzz-dataset-XXXXXX";
    const char *shards[] = {path};
    const weft_source_spec src[] = {{"a", 2, shards, 1}, {"b", 1, shards, 1}};
    weft_shard_info info;
    int fd = mkstemp(path);
    if (fd >= 0) close(fd);
    if (fd < 0 || weft_data_synth(path, 16, 1000, 1, 1, &info) < 0 ||
        weft_data_open(src, 2, 8, 7, 4, &d) < 0) {
        fprintf(stderr, "%s\n", weft_last_error());
        abort();
    }
    unlink(path);
    return d;
}

static void try_state(const char *text) {
    weft_data *d = stream();
    char *json = NULL;
    if (weft_data_restore(d, text) < 0) return;
    /* accepted: then it is whole, and every sample can be found */
    static const uint64_t at[] = {0, 1, 1000, (uint64_t)1 << 40, ((uint64_t)1 << 62) - 1};
    for (int i = 0; i < 5; i++) {
        uint32_t source;
        uint64_t window;
        if (weft_data_locate(d, at[i], &source, &window) < 0 || source > 1 ||
            window >= weft_data_windows(d, source))
            abort();
    }
    if (weft_data_state(d, &json) < 0 || weft_data_restore(d, json) < 0) abort();
    free(json);
}

static void try_catalogue(const char *text, size_t n) {
    catalogue k;
    const int64_t block = 4096, file_bytes = 1 << 20;
    if (catalogue_parse("fuzz", text, n, block, file_bytes, &k) == WEFT_OK)
        for (size_t i = 0; i < k.nsets; i++)
            if (k.sets[i].at < block || k.sets[i].bytes > file_bytes - k.sets[i].at) abort();
    catalogue_free(&k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (!n) return 0;
    char *text = malloc(n); /* exactly as long: reading past the end shows */
    if (!text) return 0;
    memcpy(text, data + 1, n - 1);
    text[n - 1] = 0;
    if (data[0] % 3 == 0) {
        const jsonl_form form = {"text", WEFT_CHAT_NONE};
        jsonl_text t = {0};
        if (jsonl_parse("fuzz", data[0] / 3, text, n - 1, &form, &t) == WEFT_OK && t.text && t.n > n) abort();
        jsonl_end(&t);
    } else if (data[0] % 3 == 1)
        try_state(text);
    else
        try_catalogue(text, n - 1);
    free(text);
    return 0;
}
