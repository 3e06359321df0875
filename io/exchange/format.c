/* The table of model formats, and HuggingFace directories as one of them; see format.h. */
#include "io/exchange/format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/status.h"
#include "io/exchange/llmc.h"

static int hf_detect(const char *path) {
    struct stat st;
    char *config = weft_path_join(path, "config.json");
    int found = config && stat(config, &st) == 0;
    free(config);
    return found;
}

static weft_status hf_export(const char *path, const weft_model_desc *m, const weft_named *t, size_t n,
                             const weft_export_opts *o) {
    if (o->version)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "HuggingFace directories have no version to choose");
    return weft_hf_export_as(path, m, t, n, o);
}

static const weft_format hf_format = {
    .name = "hf",
    .summary = "HuggingFace directory (safetensors)",
    .dtypes = 1u << WEFT_F32 | 1u << WEFT_BF16 | 1u << WEFT_F16,
    .directory = 1,
    .tokenizer = 1,
    .detect = hf_detect,
    .describe = weft_hf_config_read,
    .import = weft_hf_import,
    .export = hf_export,
};

/* A checkpoint has a config.json too; llama2.c last: its version 0 is recognised by nothing but its size. */
static const weft_format *const formats[] = {&checkpoint_format, &hf_format, &llmc_format, &gguf_format,
                                             &llama2c_format};

const weft_format *weft_format_at(size_t i) {
    return i < sizeof formats / sizeof *formats ? formats[i] : NULL;
}

const weft_format *weft_format_find(const char *name) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(formats[i]->name, name)) return formats[i];
    return NULL;
}

weft_status weft_format_detect(const char *path, const weft_format **f) {
    struct stat st;
    *f = NULL;
    if (stat(path, &st) < 0) return weft_fail_errno(errno, "opening %s", path);
    for (size_t i = 0; !*f && i < sizeof formats / sizeof *formats; i++)
        if (formats[i]->directory == !!S_ISDIR(st.st_mode) && formats[i]->detect(path)) *f = formats[i];
    if (*f) return WEFT_OK;
    return S_ISDIR(st.st_mode)
               ? weft_fail(WEFT_ERR_NOTFOUND,
                           "%s has no config.json: not a HuggingFace directory, nor a checkpoint", path)
               : weft_fail(WEFT_ERR_FORMAT, "%s is no model file that weft knows (llm.c, llama2.c)", path);
}

weft_status weft_format_export(const weft_format *f, const char *path, const weft_model_desc *m,
                               const weft_named *t, size_t n, const weft_export_opts *o) {
    if ((unsigned)o->t >= WEFT_DTYPE_COUNT || !(f->dtypes >> o->t & 1))
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s files do not hold %s", f->name, weft_dtype_name(o->t));
    if (m->experts && f != &hf_format)
        return weft_fail(WEFT_ERR_UNSUPPORTED, "%s files are written of models without experts; hf has them",
                         f->name);
    return f->export(path, m, t, n, o);
}
