/* Repair; see verify.h. The manifest is the measure: a file is mended when it is again the one that the manifest names. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/checkpoint/verify.h"
#include "io/container/digest.h"

#define TEXT_MAX ((size_t)1 << 30)

typedef struct repairing {
    const char *dir;
    const char *const *from;
    size_t n;
    void (*told)(void *, const char *);
    void *arg;
} repairing;

static void mended(const repairing *q, const char *file) {
    if (q->told) q->told(q->arg, file);
}

/* A manifest that is damaged: the one of a copy is ours if either of the two files that we have agrees with its. */
static weft_status same_text(const char *a, const char *b, const char *name, int *same) {
    char *pa = weft_path_join(a, name), *pb = weft_path_join(b, name), *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    weft_status s = pa && pb ? WEFT_OK : WEFT_ERR_NOMEM;
    *same = s >= 0 && weft_file_read(pa, TEXT_MAX, &x, &n) >= 0 &&
            weft_file_read(pb, TEXT_MAX, &y, &m) >= 0 && n == m && !memcmp(x, y, n);
    free(pa);
    free(pb);
    free(x);
    free(y);
    return s;
}

static weft_status copy_manifest(const repairing *q, const char *from) {
    char *path = weft_path_join(from, CKPT_MANIFEST_FILE), *text = NULL;
    size_t n = 0;
    weft_status s = path ? weft_file_read(path, TEXT_MAX, &text, &n) : WEFT_ERR_NOMEM;
    if (s >= 0) s = ckpt_manifest_write(q->dir, text, n);
    if (s >= 0) mended(q, CKPT_MANIFEST_FILE);
    free(path);
    free(text);
    return s;
}

static weft_status mend_manifest(const repairing *q) {
    ckpt_manifest m;
    weft_status s = ckpt_manifest_read(q->dir, &m);
    ckpt_manifest_free(&m);
    for (size_t i = 0; s == WEFT_ERR_CORRUPT && i < q->n; i++) {
        int manifest, seal;
        const weft_status r = ckpt_manifest_read(q->from[i], &m);
        ckpt_manifest_free(&m);
        if (r < 0) continue;
        WEFT_TRY(same_text(q->dir, q->from[i], CKPT_MANIFEST_FILE, &manifest));
        WEFT_TRY(same_text(q->dir, q->from[i], CKPT_SEAL_FILE, &seal));
        if (manifest || seal) return copy_manifest(q, q->from[i]);
    }
    return s < 0 ? weft_context(s, "%s cannot be mended: no copy has this manifest", q->dir) : s;
}

/* Is there anything wrong with file f? */
static int file_holds(const char *dir, size_t f) {
    ckpt_reader *r = NULL;
    const weft_container *c;
    const int holds =
        ckpt_reader_open(dir, &r) >= 0 && ckpt_reader_file(r, f, &c) >= 0 && weft_container_verify(c) >= 0;
    ckpt_reader_close(r);
    return holds;
}

static weft_status mend_file(const repairing *q, const ckpt_file *f) {
    char *path = weft_path_join(q->dir, f->path);
    weft_status s =
        path ? weft_container_mend(path, NULL, CKPT_FILE_FORMAT, CKPT_VERSION, f->digest) : WEFT_ERR_NOMEM;
    for (size_t i = 0; s < 0 && s != WEFT_ERR_NOMEM && i < q->n; i++) {
        char *from = weft_path_join(q->from[i], f->path);
        s = from ? weft_container_mend(path, from, CKPT_FILE_FORMAT, CKPT_VERSION, f->digest)
                 : WEFT_ERR_NOMEM;
        free(from);
    }
    if (s >= 0) mended(q, f->path);
    free(path);
    return s;
}

static weft_status mend_extra(const repairing *q, const ckpt_file *f) {
    weft_status s = WEFT_ERR_CORRUPT;
    weft_fail(s, "%s/%s is damaged, and no copy of it is whole", q->dir, f->path);
    for (size_t i = 0; s < 0 && i < q->n; i++) {
        char *path = weft_path_join(q->from[i], f->path), *to = weft_path_join(q->dir, f->path), *data = NULL;
        size_t n = 0;
        uint8_t digest[16];
        if (path && to && weft_file_read(path, TEXT_MAX, &data, &n) >= 0) {
            weft_digest(data, n, digest);
            if (!memcmp(digest, f->digest, sizeof digest) && (s = weft_file_write(to, data, n)) >= 0)
                mended(q, f->path);
        }
        free(path);
        free(to);
        free(data);
    }
    return s;
}

weft_status ckpt_repair(const char *dir, const char *const *from, size_t n,
                        void (*told)(void *, const char *file), void *arg) {
    const repairing q = {dir, from, n, told, arg};
    ckpt_manifest m;
    WEFT_TRY(mend_manifest(&q));
    weft_status s = ckpt_manifest_read(dir, &m), worst = WEFT_OK;
    for (size_t f = 0; s >= 0 && f < m.nfiles; f++)
        if (!file_holds(dir, f) && mend_file(&q, &m.file[f]) < 0) worst = WEFT_ERR_CORRUPT;
    for (size_t i = 0; s >= 0 && i < m.nextra; i++) {
        ckpt_reader *r = NULL;
        char *data = NULL;
        size_t len;
        s = ckpt_reader_open(dir, &r);
        if (s >= 0 && ckpt_reader_extra(r, m.extra[i].path, &data, &len) < 0 &&
            mend_extra(&q, &m.extra[i]) < 0)
            worst = WEFT_ERR_CORRUPT;
        ckpt_reader_close(r);
        free(data);
    }
    ckpt_manifest_free(&m);
    return s < 0 ? s : worst;
}
