/* weft_ckpt_load: which checkpoint, and every rank its parts. Rank 0 looks into the directory; all ranks try the same
 * checkpoint and agree on what they found, so that a damaged one is passed over by all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "comm/ctrl.h"
#include "io/checkpoint/internal.h"
#include "io/checkpoint/reader.h"

/* Keeps what may be loaded of a list; a manifest that is damaged is told here, for its step is not known. */
static weft_status choose(const weft_ckpt *c, int64_t step, ckpt_entry *list, size_t n, int64_t *count) {
    size_t damaged = 0;
    for (size_t i = 0; i < n; i++) {
        if (list[i].status >= 0) {
            if (step < 0 || list[i].step == step) list[(*count)++] = list[i];
        } else if (list[i].status != WEFT_ERR_NOTFOUND) { /* that is a save that was killed */
            damaged++;
            weft_warn("checkpoint %s/%s cannot be read (%s); weft ckpt verify tells more", c->root,
                      list[i].name, weft_status_name(list[i].status));
        }
    }
    if (*count) return WEFT_OK;
    if (damaged)
        return weft_fail(WEFT_ERR_CORRUPT, "%s: no checkpoint can be read, %zu are damaged", c->root,
                         damaged);
    return step >= 0
               ? weft_fail(WEFT_ERR_NOTFOUND, "%s has no checkpoint of step %lld", c->root, (long long)step)
               : weft_fail(WEFT_ERR_NOTFOUND, "%s has no checkpoint", c->root);
}

/* The candidates of rank 0, newest first, on every rank. */
static weft_status candidates(weft_ckpt *c, int64_t step, ckpt_entry **list, size_t *n) {
    int64_t count = 0;
    weft_status s = WEFT_OK;
    *list = NULL;
    if (c->rank == 0) s = ckpt_list(c->root, list, n);
    if (c->rank == 0 && s >= 0) s = choose(c, step, *list, *n, &count);
    WEFT_TRY(weft_ctrl_agree(c->g, s));
    WEFT_TRY(weft_ctrl_bcast(c->g, &count, sizeof count, 0));
    *n = (size_t)count;
    if (c->rank != 0 && !(*list = weft_calloc(*n, sizeof **list))) s = WEFT_ERR_NOMEM;
    WEFT_TRY(weft_ctrl_agree(c->g, s));
    return weft_ctrl_bcast(c->g, *list, *n * sizeof **list, 0);
}

/* The tensors that any rank asks for: the others are unexpected. */
static weft_status gather_asked(weft_ckpt *c, const ckpt_reader *r, const weft_ckpt_part *parts, size_t n,
                                weft_status s, int32_t **asked) {
    const size_t tensors = s >= 0 ? ckpt_reader_manifest(r)->table.ntensors : 0;
    if (s >= 0 && !(*asked = weft_calloc(tensors + 1, sizeof **asked))) s = WEFT_ERR_NOMEM;
    WEFT_TRY(weft_ctrl_agree(c->g, s));
    ckpt_reader_asked(r, parts, n, *asked);
    return weft_ctrl_allreduce(c->g, *asked, tensors + 1, WEFT_I32, WEFT_MAX);
}

static weft_status load_one(weft_ckpt *c, const ckpt_entry *e, const weft_ckpt_part *parts, size_t n,
                            weft_ckpt_load_opts *o, int64_t *step, char **state) {
    ckpt_reader *r = NULL;
    char *dir = weft_path_join(c->root, e->name);
    int32_t *asked = NULL;
    weft_status s = dir ? ckpt_reader_open(dir, &r) : WEFT_ERR_NOMEM;
    s = gather_asked(c, r, parts, n, s, &asked);
    if (s >= 0) s = ckpt_reader_load_of(r, parts, n, asked, o);
    if (s >= 0) {
        *step = ckpt_reader_manifest(r)->step;
        if (state && !(*state = weft_strdup(ckpt_reader_manifest(r)->state))) s = WEFT_ERR_NOMEM;
    }
    ckpt_reader_close(r);
    free(asked);
    free(dir);
    s = weft_ctrl_agree(c->g, s);
    if (s < 0 && state) {
        free(*state);
        *state = NULL;
    }
    return s;
}

/* Damage that another checkpoint may not have; anything else (other tensors, a newer version) is for the user to decide. */
static int is_damage(weft_status s) {
    return s == WEFT_ERR_CORRUPT || s == WEFT_ERR_FORMAT || s == WEFT_ERR_IO || s == WEFT_ERR_NOTFOUND;
}

weft_status weft_ckpt_load(weft_ckpt *c, int64_t *step, const weft_ckpt_part *parts, size_t n,
                           weft_ckpt_load_opts *o, char **state) {
    if (!step || (n && !parts) || (o && o->size != sizeof *o))
        return weft_fail(WEFT_ERR_ARG, "loading a checkpoint: bad arguments");
    if (c->save.phase != CKPT_IDLE) return weft_fail(WEFT_ERR_STATE, "a checkpoint is being saved");
    if (state) *state = NULL;
    const int64_t want = *step;
    ckpt_entry *list;
    size_t count;
    weft_status s = candidates(c, want, &list, &count);
    for (size_t i = 0; s >= 0 && i < count; i++) {
        s = load_one(c, &list[i], parts, n, o, step, state);
        if (s >= 0) break;
        if (!is_damage(s) || i + 1 == count) {
            s = weft_context(s, "loading the checkpoint %s/%s", c->root, list[i].name);
            break;
        }
        if (c->rank == 0)
            weft_warn("checkpoint %s/%s is damaged, going back to an older one: %s", c->root, list[i].name,
                      weft_last_error());
        s = WEFT_OK;
    }
    free(list);
    return s;
}
