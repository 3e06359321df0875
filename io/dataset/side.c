/* One side of a preparation. Shards are finished under the directory of unfinished things and moved when all text is
 * tokenized. The spools of a finished shard stay until a state is on the disk that no longer needs them: whatever the
 * moment of a kill, the last state finds everything that it names. */
#include "io/dataset/side.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define NAME_MAX_BYTES 64

/* DIR/train-00007.wtok.h5; number UINT64_MAX: DIR/train.wtok.h5. free(). */
static weft_status shard_path(const side *s, const char *dir, uint64_t number, char **path) {
    char name[NAME_MAX_BYTES];
    if (number == UINT64_MAX)
        snprintf(name, sizeof name, "%s.wtok.h5", s->name);
    else
        snprintf(name, sizeof name, "%s-%05" PRIu64 ".wtok.h5", s->name, number);
    return (*path = weft_path_join(dir, name)) ? WEFT_OK : WEFT_ERR_NOMEM;
}

static weft_status open_shard(side *s) {
    char *path;
    WEFT_TRY(shard_path(s, s->work, s->state.shard, &path));
    weft_status st = shard_create_at(path, &s->info, &s->state.open, &s->w);
    free(path);
    return st;
}

/* The finished shards are there, and hold what they held. */
static weft_status check_finished(const side *s) {
    uint64_t tokens = 0;
    for (uint64_t k = 0; k < s->state.shard; k++) {
        char *path;
        weft_shard_info i = {0};
        WEFT_TRY(shard_path(s, s->work, k, &path));
        weft_status st = weft_shard_info_read(path, &i);
        free(path);
        WEFT_TRY(st);
        tokens += i.tokens;
    }
    if (tokens == s->state.before.tokens) return WEFT_OK;
    return weft_fail(WEFT_ERR_CORRUPT, "%s: the finished %s shards have %" PRIu64 " tokens, not %" PRIu64,
                     s->work, s->name, tokens, s->state.before.tokens);
}

weft_status side_open(side *s, const journal_side *from) {
    s->state = from ? *from : (journal_side){0};
    s->spools = s->state.shard;
    WEFT_TRY(check_finished(s));
    return open_shard(s);
}

void side_close(side *s) {
    weft_shard_abort(s->w);
    s->w = NULL;
}

static weft_status finish_shard(side *s) {
    weft_shard_info i;
    weft_shard_writer *w = s->w;
    s->w = NULL;
    WEFT_TRY(weft_shard_finish(w, &i));
    shard_place *b = &s->state.before;
    b->tokens += i.tokens;
    b->docs += i.docs;
    b->source_bytes += i.source_bytes;
    b->targets += i.targets;
    s->state.shard++;
    s->state.open = (shard_place){0};
    if (s->state.shard <= JOURNAL_MAX_SHARDS) return WEFT_OK;
    return weft_fail(WEFT_ERR_ARG, "more than %d shards: ask for more tokens in each", JOURNAL_MAX_SHARDS);
}

weft_status side_put(side *s, const uint32_t *ids, const uint8_t *mask, const token_doc *d) {
    if (shard_writer_info(s->w)->tokens >= s->limit) {
        WEFT_TRY(finish_shard(s));
        WEFT_TRY(open_shard(s));
    }
    if (d->begins || !shard_writer_info(s->w)->docs) WEFT_TRY(shard_begin_document(s->w));
    return shard_put(s->w, ids, mask, d->tokens, d->bytes);
}

weft_status side_save(side *s) {
    return shard_save_place(s->w, &s->state.open);
}

weft_status side_forget(side *s) {
    for (; s->spools < s->state.shard; s->spools++) {
        char *path;
        WEFT_TRY(shard_path(s, s->work, s->spools, &path));
        weft_status st = shard_remove_spools(path);
        free(path);
        WEFT_TRY(st);
    }
    return WEFT_OK;
}

weft_status side_finish(side *s) {
    return finish_shard(s);
}

uint64_t side_tokens(const side *s) {
    return s->state.before.tokens + (s->w ? shard_writer_info(s->w)->tokens : 0);
}

void side_total(const side *s, weft_shard_info *info) {
    const shard_place *b = &s->state.before;
    *info = s->info;
    info->tokens = b->tokens;
    info->docs = b->docs;
    info->source_bytes = b->source_bytes;
    info->targets = b->targets;
    info->width = shard_width(info->vocab);
}

weft_status side_place(const side *s, const char *dir) {
    weft_status st = WEFT_OK;
    for (uint64_t k = 0; st == WEFT_OK && k < s->state.shard; k++) {
        char *from = NULL, *to = NULL;
        st = shard_path(s, s->work, k, &from);
        if (st == WEFT_OK) st = shard_path(s, dir, s->state.shard == 1 ? UINT64_MAX : k, &to);
        if (st == WEFT_OK &&
            !(access(from, F_OK) < 0 && access(to, F_OK) == 0)) /* else: done before a kill */
            st = weft_rename_durable(from, to);
        free(from);
        free(to);
    }
    return st;
}

/* 1: a shard of this side by its name; *number is UINT64_MAX for the only one. */
static int is_shard(const side *s, const char *name, uint64_t *number) {
    size_t n = strlen(s->name);
    if (strncmp(name, s->name, n)) return 0;
    *number = UINT64_MAX;
    if (!strcmp(name + n, ".wtok.h5")) return 1;
    if (name[n] != '-' || strspn(name + n + 1, "0123456789") != 5 || strcmp(name + n + 6, ".wtok.h5"))
        return 0;
    *number = strtoull(name + n + 1, NULL, 10);
    return 1;
}

weft_status side_sweep(const side *s, const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return weft_fail_errno(errno, "directory %s", dir);
    weft_status st = WEFT_OK;
    for (struct dirent *e; st == WEFT_OK && (e = readdir(d));) {
        uint64_t k, n = s->state.shard;
        if (!is_shard(s, e->d_name, &k) || (n == 1 ? k == UINT64_MAX : k < n)) continue;
        if (unlinkat(dirfd(d), e->d_name, 0) < 0 && errno != ENOENT)
            st = weft_fail_errno(errno, "removing the older %s in %s", e->d_name, dir);
    }
    closedir(d);
    return st;
}
