/* Which reader a path asks for, by its name; see weft_tok_load. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/tokenizer/tok.h"

/* The two names under which the vocabulary and its merges travel together. */
static const char *const pairs[][2] = {{"vocab.json", "merges.txt"}, {"encoder.json", "vocab.bpe"}};
#define NPAIRS (sizeof pairs / sizeof *pairs)

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int ends_with(const char *s, const char *end) {
    size_t a = strlen(s), b = strlen(end);
    return a >= b && !strcmp(s + a - b, end);
}

/* `name` in the directory of path. */
static char *beside(const char *path, const char *name) {
    char *dir = weft_strdup(path);
    if (!dir) return NULL;
    dir[base_name(path) - path] = 0;
    char *p = weft_path_join(dir, name);
    free(dir);
    return p;
}

static weft_status load_pair(const char *path, const char *vocab_name, const char *merges_name,
                             weft_tok **out) {
    char *vpath = beside(path, vocab_name), *mpath = beside(path, merges_name), *v = NULL, *m = NULL;
    size_t nv = 0, nm = 0;
    weft_status s = vpath && mpath ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s == WEFT_OK) s = weft_file_read(vpath, TOK_MAX_FILE, &v, &nv);
    if (s == WEFT_OK) s = weft_file_read(mpath, TOK_MAX_FILE, &m, &nm);
    if (s == WEFT_OK) s = tok_parse_vocab_merges(vpath, v, nv, mpath, m, nm, out);
    free(vpath);
    free(mpath);
    free(v);
    free(m);
    return s;
}

static weft_status load_file(const char *path, weft_tok **out) {
    const char *name = base_name(path);
    for (size_t i = 0; i < NPAIRS; i++)
        if (!strcmp(name, pairs[i][0]) || !strcmp(name, pairs[i][1]))
            return load_pair(path, pairs[i][0], pairs[i][1], out);
    int tiktoken = ends_with(name, ".tiktoken"), model = ends_with(name, ".model");
    if (!tiktoken && !model && !ends_with(name, ".json"))
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "%s: weft reads tokenizer.json, vocab.json with merges.txt, and .tiktoken files",
                         path);
    char *text;
    size_t n;
    WEFT_TRY(weft_file_read(path, TOK_MAX_FILE, &text, &n));
    weft_status s;
    if (model && n &&
        text[0] == '\n') /* the first byte of a protobuf; Llama 3's tokenizer.model is tiktoken text */
        s = weft_fail(WEFT_ERR_UNSUPPORTED, "%s is a SentencePiece model, which weft does not read", path);
    else if (tiktoken || model)
        s = tok_parse_tiktoken(path, text, n, out);
    else
        s = weft_tok_parse_json(path, text, n, out);
    free(text);
    return s;
}

static int is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* The first of the directory's files that weft reads, tokenizer.json before pairs before .tiktoken (the first
 * by name); NULL if there is none. */
static weft_status choose(const char *dir, char **path) {
    static const char *const names[] = {"tokenizer.json", "vocab.json", "encoder.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *path = weft_path_join(dir, names[i]);
        if (!*path) return WEFT_ERR_NOMEM;
        if (is_file(*path)) return WEFT_OK;
        free(*path);
    }
    *path = NULL;
    DIR *d = opendir(dir);
    if (!d) return weft_fail_errno(errno, "reading the directory %s", dir);
    char *best = NULL;
    weft_status s = WEFT_OK;
    for (struct dirent *e; s == WEFT_OK && (e = readdir(d));) {
        if (!ends_with(e->d_name, ".tiktoken") || (best && strcmp(e->d_name, best) > 0)) continue;
        free(best);
        if (!(best = weft_strdup(e->d_name))) s = WEFT_ERR_NOMEM;
    }
    closedir(d);
    if (s == WEFT_OK && best && !(*path = weft_path_join(dir, best))) s = WEFT_ERR_NOMEM;
    free(best);
    if (s == WEFT_OK && !*path)
        s = weft_fail(WEFT_ERR_NOTFOUND, "%s holds no tokenizer.json, vocab.json or .tiktoken file", dir);
    return s;
}

weft_status weft_tok_load(const char *path, weft_tok **out) {
    *out = NULL;
    struct stat st;
    if (stat(path, &st) < 0) return weft_fail_errno(errno, "tokenizer %s", path);
    if (!S_ISDIR(st.st_mode)) return load_file(path, out);
    char *file;
    WEFT_TRY(choose(path, &file));
    assert(file);
    weft_status s = load_file(file, out);
    free(file);
    return s;
}
