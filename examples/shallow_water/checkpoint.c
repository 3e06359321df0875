/* A part is contiguous and the fields have ghosts, so a save begins with a copy of the cells that are this rank's. The
 * next step may then be computed at once; the copy itself is free again when it is staged, long before the next save. */
#include "checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm_weft.h"

#define FIELDS 3
#define KEEP   3 /* newest checkpoints */

struct sw_checkpoint {
    sw_solver *sim;
    weft_ckpt *ckpt;
    const char *dir;
    int first;      /* the rank that speaks */
    int64_t at;     /* step of the newest checkpoint; -1: none */
    double seconds; /* it took */
    size_t nparts;
    weft_ckpt_part part[FIELDS + SW_MORE_PARTS];
    double *copy[FIELDS];
};

static int failed(const sw_checkpoint *c, weft_status s) {
    if (s >= 0) return 0;
    if (c->first) fprintf(stderr, "checkpoint: %s\n", weft_last_error());
    return -1;
}

static weft_ckpt_part field(const sw_solver *s, const char *name, double *copy) {
    return (weft_ckpt_part){
        .name = name,
        .dtype = WEFT_F64,
        .ndim = 2,
        .shape = {s->n[1], s->n[0]},
        .box = {.ndim = 2, .off = {s->first[1], s->first[0]}, .ext = {s->own[1], s->own[0]}},
        .ptr = copy};
}

sw_checkpoint *sw_checkpoint_open(sw_solver *s, const char *dir, const weft_ckpt_part *more, size_t nmore) {
    static const char *const names[FIELDS] = {"sim/depth", "sim/momentum_x", "sim/momentum_y"};
    sw_checkpoint *c = calloc(1, sizeof *c);
    int ok = c && nmore <= SW_MORE_PARTS;
    for (int f = 0; f < FIELDS && ok; f++) {
        c->copy[f] = malloc(sizeof(double) * (size_t)s->own[0] * (size_t)s->own[1]);
        c->part[c->nparts++] = field(s, names[f], c->copy[f]);
        ok = c->copy[f] != NULL;
    }
    if (!ok) {
        fprintf(stderr, "checkpoint: no memory\n");
        sw_checkpoint_close(c);
        return NULL;
    }
    for (size_t i = 0; i < nmore; i++) c->part[c->nparts++] = more[i];
    c->sim = s;
    c->dir = dir;
    c->at = -1;
    c->first = weft_group_rank(comm_weft_group(s->comm)) == 0;
    const weft_ckpt_opts o = {.size = sizeof o, .keep = KEEP};
    if (!failed(c, weft_ckpt_open(comm_weft_group(s->comm), dir, &o, &c->ckpt)) &&
        !failed(c, weft_ckpt_plan(c->ckpt, c->part, c->nparts)))
        return c;
    sw_checkpoint_close(c);
    return NULL;
}

void sw_checkpoint_close(sw_checkpoint *c) {
    if (!c) return;
    failed(c, weft_ckpt_close(c->ckpt));
    for (int f = 0; f < FIELDS; f++) free(c->copy[f]);
    free(c);
}

/* --- going on ---------------------------------------------------------------------------------------------------- */

int sw_checkpoint_load(sw_checkpoint *c, int64_t *step, char **state) {
    *step = -1;
    const weft_status s = weft_ckpt_load(c->ckpt, step, c->part, c->nparts, NULL, state);
    if (s == WEFT_ERR_NOTFOUND) return 1;
    if (failed(c, s)) return -1;
    for (int f = 0; f < FIELDS; f++) sw_set(c->sim, f, c->copy[f]);
    c->at = *step;
    if (c->first) fprintf(stderr, "checkpoint: goes on from step %lld of %s\n", (long long)*step, c->dir);
    return 0;
}

int sw_checkpoint_number(const char *state, const char *key, double *x) {
    char quoted[64], *end;
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *p = strstr(state, quoted);
    if (p) {
        p += strlen(quoted);
        p += strspn(p, " :");
        *x = strtod(p, &end);
        if (end != p) return 0;
    }
    fprintf(stderr, "checkpoint: its state has no number %s\n", quoted);
    return -1;
}

/* --- saving ------------------------------------------------------------------------------------------------------ */

static void note(sw_checkpoint *c, const weft_ckpt_info *i) {
    if (i->step < 0) return;
    c->at = i->step;
    c->seconds = i->seconds;
}

int64_t sw_checkpoint_newest(const sw_checkpoint *c, double *seconds) {
    *seconds = c->seconds;
    return c->at;
}

static void copy_fields(sw_checkpoint *c) {
    sw_checkpoint_staged(c); /* the copies of the save before */
    for (int f = 0; f < FIELDS; f++) sw_get(c->sim, f, c->copy[f]);
}

void sw_checkpoint_begin(sw_checkpoint *c, int64_t step, const char *state) {
    sw_checkpoint_progress(c);
    copy_fields(c);
    failed(c, weft_ckpt_begin(c->ckpt, step, c->part, c->nparts, state));
}

void sw_checkpoint_staged(sw_checkpoint *c) {
    failed(c, weft_ckpt_staged(c->ckpt, -1));
}

void sw_checkpoint_progress(sw_checkpoint *c) {
    weft_ckpt_info info;
    if (!failed(c, weft_ckpt_progress(c->ckpt, &info))) note(c, &info);
}

int sw_checkpoint_last(sw_checkpoint *c, int64_t step, const char *state) {
    weft_ckpt_info info;
    if (!failed(c, weft_ckpt_wait(c->ckpt, &info))) note(c, &info);
    if (c->at == step) return 0;
    copy_fields(c);
    if (failed(c, weft_ckpt_save(c->ckpt, step, c->part, c->nparts, state))) return -1;
    c->at = step;
    return 0;
}
