/* Saving: the public calls, and how a save goes from phase to phase (internal.h).
 *
 * Between two phases all ranks agree that they are done with the first, at a step boundary and in one small reduction;
 * nothing waits for a disk on the caller's thread. What one rank finds wrong ends the save on all of them: files and the
 * directory are removed, the checkpoints before are untouched.
 *
 * Durable order: segments synced by who wrote them -> digests and catalogue of each file synced, file renamed -> manifest
 * synced -> its seal synced -> directory renamed, its parent synced. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "comm/ctrl.h"
#include "io/checkpoint/internal.h"

#define NAP_NS     200000 /* of who waits for the other one's last segment */
#define PATIENCE_S 0.5    /* of a caller that waits: then it tells the others that it still does */

static void nap(void) {
    const struct timespec t = {0, NAP_NS};
    nanosleep(&t, NULL);
}

/* --- open and close ----------------------------------------------------------------------------------------------- */

static weft_status new_run(weft_ckpt *c) {
    uint8_t id[16] = {0};
    weft_status s = WEFT_OK;
    if (c->rank == 0 && getrandom(id, sizeof id, 0) != (ssize_t)sizeof id)
        s = weft_fail(WEFT_ERR_IO, "no random numbers for a checkpoint's identity");
    if (s >= 0 && c->rank == 0) s = weft_mkdirs(c->root);
    WEFT_TRY(weft_ctrl_agree(c->g, s));
    WEFT_TRY(weft_ctrl_bcast(c->g, id, sizeof id, 0));
    for (int i = 0; i < 16; i++) snprintf(c->run + 2 * i, 3, "%02x", id[i]);
    return WEFT_OK;
}

weft_status weft_ckpt_open(weft_group *g, const char *root, const weft_ckpt_opts *o, weft_ckpt **out) {
    *out = NULL;
    if (!g || !root || !*root || (o && o->size != sizeof *o))
        return weft_fail(WEFT_ERR_ARG,
                         "checkpoints without a group or a directory, or options of another size");
    weft_ckpt *c = weft_calloc(1, sizeof *c);
    weft_status s = c ? WEFT_OK : WEFT_ERR_NOMEM;
    if (c) {
        c->g = g;
        c->rank = weft_group_rank(g);
        c->size = weft_group_size(g);
        c->info.step = -1;
        if (o) c->o = *o;
        if (!c->o.segment_bytes) c->o.segment_bytes = CKPT_SEGMENT;
        if (c->o.segment_bytes < CKPT_PAGE || c->o.segment_bytes > (int64_t)1 << 30 ||
            (c->o.segment_bytes & (c->o.segment_bytes - 1)) || c->o.files < 0 || c->o.keep < 0 ||
            c->o.keep_every < 0)
            s = weft_fail(
                WEFT_ERR_ARG,
                "checkpoints: segments must be a power of two from 4 KiB to 1 GiB, counts not negative");
        if (s >= 0 && !(c->root = weft_strdup(root))) s = WEFT_ERR_NOMEM;
        if (s >= 0) s = weft_container_start();
        if (s >= 0) s = ckpt_worker_create(&c->worker);
    }
    s = weft_ctrl_agree(g, s);
    if (s >= 0) s = new_run(c);
    if (s < 0) {
        weft_ckpt_abandon(c);
        return s;
    }
    *out = c;
    return WEFT_OK;
}

static void forget(weft_ckpt *c) {
    ckpt_save *v = &c->save;
    for (int f = 0; v->writer && f < c->plan.nfiles; f++) weft_container_abort(v->writer[f]);
    free(v->writer);
    free(v->state);
    free(v->tmp);
    free(v->part);
    free((void *)v->left);
    free(v->digest);
    free(v->slot);
    free(v->path);
    free(v->at);
    free(v->id);
    memset(v, 0, sizeof *v);
    c->info.busy = 0;
}

void weft_ckpt_abandon(weft_ckpt *c) {
    if (!c) return;
    ckpt_worker_destroy(c->worker); /* waits for its job: the files are its own */
    forget(c);
    ckpt_plan_free(&c->plan);
    ckpt_arena_release(c);
    free(c->root);
    free(c);
}

weft_status weft_ckpt_close(weft_ckpt *c) {
    const weft_status s = c && c->save.phase != CKPT_IDLE ? weft_ckpt_wait(c, NULL) : WEFT_OK;
    weft_ckpt_abandon(c);
    return s;
}

/* --- planning ------------------------------------------------------------------------------------------------------ */

/* Is the plan still that of these parts, on every rank? */
static weft_status plan_holds(weft_ckpt *c, const weft_ckpt_part *parts, size_t n, int *holds) {
    int64_t other =
        !c->plan.made || c->plan.signature != ckpt_signature(parts, n, c->o.files, c->o.segment_bytes);
    WEFT_TRY(weft_ctrl_allreduce(c->g, &other, 1, WEFT_I64, WEFT_MAX));
    *holds = !other;
    return WEFT_OK;
}

static int fits(const weft_ckpt *c) {
    return !c->o.staging || ckpt_arena_needed(&c->plan) <= c->o.staging;
}

static weft_status make_plan(weft_ckpt *c, const weft_ckpt_part *parts, size_t n) {
    int holds;
    WEFT_TRY(plan_holds(c, parts, n, &holds));
    if (holds) return WEFT_OK;
    ckpt_plan_free(&c->plan);
    return ckpt_plan_make(c->g, parts, n, c->o.files, c->o.segment_bytes, &c->plan);
}

/* Memory for a save; all ranks stage, or none does. *stages tells. */
static weft_status take_memory(weft_ckpt *c, int want, int *stages) {
    int64_t cannot = !want || !fits(c);
    WEFT_TRY(weft_ctrl_allreduce(c->g, &cannot, 1, WEFT_I64, WEFT_MAX));
    *stages = !cannot;
    const size_t bytes = *stages ? ckpt_arena_needed(&c->plan) : (size_t)c->o.segment_bytes;
    return weft_ctrl_agree(c->g, ckpt_arena_take(c, bytes));
}

weft_status weft_ckpt_plan(weft_ckpt *c, const weft_ckpt_part *parts, size_t n) {
    int stages;
    if (c->save.phase != CKPT_IDLE) return weft_fail(WEFT_ERR_STATE, "a checkpoint is being saved");
    WEFT_TRY(make_plan(c, parts, n));
    return take_memory(c, 1, &stages);
}

size_t weft_ckpt_staging(const weft_ckpt *c) {
    return c->arena_bytes;
}

/* --- the phases' jobs, on the writer thread -------------------------------------------------------------------------- */

static weft_status make_file(weft_ckpt *c, int f) {
    const ckpt_plan *p = &c->plan;
    const ckpt_table *t = &p->table;
    ckpt_save *v = &c->save;
    const size_t first = ckpt_file_begin(p, f), n = p->file_end[f] - first;
    char(*name)[CKPT_DATASET_MAX] = weft_calloc(n, sizeof *name);
    weft_container_dataset *sets = weft_calloc(n, sizeof *sets);
    char base[16], *path = NULL;
    snprintf(base, sizeof base, "s%03d.h5", f);
    weft_status s = name && sets && (path = weft_path_join(v->tmp, base)) ? WEFT_OK : WEFT_ERR_NOMEM;
    for (size_t k = 0; s >= 0 && k < n; k++) {
        const ckpt_set *e = &t->set[p->file_set[first + k]];
        const ckpt_tensor *of = &t->tensor[e->tensor];
        const int box = !e->piece.flat_hi;
        ckpt_dataset_name(t, p->file_set[first + k], name[k]);
        sets[k] = (weft_container_dataset){.name = name[k], .dtype = of->dtype, .ndim = box ? of->ndim : 1};
        if (box)
            memcpy(sets[k].shape, e->piece.box.ext, sizeof sets[k].shape);
        else
            sets[k].shape[0] = e->elements;
    }
    const weft_attr attrs[] = {{.name = "run", .type = WEFT_ATTR_STRING, .s = c->run},
                               {.name = "step", .type = WEFT_ATTR_I64, .i = v->step}};
    const weft_container_opts o = {.size = sizeof o,
                                   .format = CKPT_FILE_FORMAT,
                                   .version = CKPT_VERSION,
                                   .segment_bytes = p->segment_bytes,
                                   .attrs = attrs,
                                   .nattrs = sizeof attrs / sizeof *attrs};
    if (s >= 0) s = weft_container_create(path, &o, sets, n, &v->writer[f]);
    if (s >= 0) {
        const char *tmp = weft_container_tmp(v->writer[f]);
        snprintf(v->path[f], sizeof v->path[f], "%s", strrchr(tmp, '/') + 1);
        for (size_t k = 0; k < n; k++) v->at[p->file_set[first + k]] = sets[k].at;
    }
    free(name);
    free(sets);
    free(path);
    return s;
}

static weft_status stage_job(void *arg) {
    weft_ckpt *c = arg;
    if (!c->save.unstaged) WEFT_TRY(ckpt_stage_all(c)); /* first: the caller wants its memory back */
    for (int f = 0; f < c->plan.nfiles; f++)
        if (c->plan.leader[f] == c->rank) WEFT_TRY(make_file(c, f));
    while (!c->save.unstaged && atomic_load_explicit(&c->save.left[c->save.nparts], memory_order_acquire))
        nap(); /* the caller stages the last ones */
    return WEFT_OK;
}

static weft_status write_job(void *arg) {
    return ckpt_write_mine(arg);
}

static weft_status seal_job(void *arg) {
    weft_ckpt *c = arg;
    ckpt_save *v = &c->save;
    weft_status s = WEFT_OK;
    for (int f = 0; s >= 0 && f < c->plan.nfiles; f++) {
        weft_container_writer *w = v->writer[f];
        v->writer[f] = NULL;
        if (w) s = weft_container_commit(w, &v->id[f]);
    }
    return s;
}

static weft_status commit_job(void *arg) {
    return ckpt_commit(arg);
}

/* --- begin ---------------------------------------------------------------------------------------------------------- */

static weft_status prepare(weft_ckpt *c, const weft_ckpt_part *parts, size_t n, const char *state) {
    const ckpt_plan *p = &c->plan;
    ckpt_save *v = &c->save;
    v->part = weft_calloc(n + 1, sizeof *v->part);
    v->left = weft_calloc(n + 1, sizeof *v->left);
    v->digest = weft_calloc(p->nmine + 1, sizeof *v->digest);
    v->slot = weft_calloc(p->nmine + 1, sizeof *v->slot);
    v->writer = weft_calloc((size_t)p->nfiles, sizeof *v->writer);
    v->path = weft_calloc((size_t)p->nfiles, sizeof *v->path);
    v->at = weft_calloc(p->table.nsets, sizeof *v->at);
    v->id = weft_calloc((size_t)p->nfiles, sizeof *v->id);
    if (!v->part || !v->left || !v->digest || !v->slot || !v->writer || !v->path || !v->at || !v->id)
        return WEFT_ERR_NOMEM;
    if (c->rank == 0 && !(v->state = weft_strdup(state ? state : "{}"))) return WEFT_ERR_NOMEM;
    v->nparts = (int)n;
    for (size_t i = 0; i < n; i++) v->part[i] = parts[i].ptr;
    size_t at = 0;
    for (size_t i = 0; i < p->nmine; i++) {
        const ckpt_segment *g = &p->segment[p->mine[i]];
        v->slot[i] = at;
        if (!v->unstaged)
            at += weft_align_up((size_t)g->bytes, CKPT_PAGE); /* else one after the other in one place */
        v->left[p->part[g->set]]++;
        v->left[n]++;
    }
    return WEFT_OK;
}

static weft_status make_directory(weft_ckpt *c) {
    ckpt_save *v = &c->save;
    char name[96], step[32];
    uint32_t salt = (uint32_t)weft_now_ns();
    WEFT_TRY(weft_ctrl_bcast(c->g, &salt, sizeof salt, 0));
    ckpt_step_name(v->step, step);
    snprintf(name, sizeof name, "%s.tmp-%08x", step, salt);
    v->tmp = weft_path_join(c->root, name);
    weft_status s = v->tmp ? WEFT_OK : WEFT_ERR_NOMEM;
    if (c->rank == 0 && !c->swept)
        ckpt_sweep(c->root); /* not at open: who only loads may do so beside a run */
    c->swept = 1;
    if (s >= 0 && c->rank == 0) s = weft_mkdirs(v->tmp);
    return weft_ctrl_agree(c->g, s);
}

static weft_status give_up(weft_ckpt *c, weft_status s) {
    char *tmp = c->save.tmp ? weft_strdup(c->save.tmp) : NULL;
    forget(c); /* removes this rank's files */
    c->info.failed++;
    s = weft_ctrl_agree(c->g, s);
    if (c->rank == 0 && tmp) {
        char text[2048];
        snprintf(text, sizeof text, "%s", weft_last_error());
        if (weft_remove_tree(tmp) < 0) weft_warn("unfinished checkpoint not removed: %s", weft_last_error());
        weft_fail(s, "%s", text);
    }
    free(tmp);
    return s;
}

static weft_status begin(weft_ckpt *c, int64_t step, const weft_ckpt_part *parts, size_t n, const char *state,
                         int stage) {
    ckpt_save *v = &c->save;
    int stages;
    if (step < 0 || (n && !parts))
        return weft_fail(WEFT_ERR_ARG, "checkpoint of step %lld without parts", (long long)step);
    if (v->phase != CKPT_IDLE) {
        c->info.skipped++;
        return WEFT_DROPPED;
    }
    v->began = weft_now();
    WEFT_TRY(make_plan(c, parts, n));
    WEFT_TRY(take_memory(c, stage, &stages));
    v->step = step;
    v->unstaged = !stages;
    weft_status s = weft_ctrl_agree(c->g, prepare(c, parts, n, state));
    if (s >= 0) s = make_directory(c);
    if (s >= 0 && c->o.fetch && stages) s = weft_ctrl_agree(c->g, ckpt_stage_all(c));
    if (s < 0) return give_up(c, s);
    v->phase = CKPT_STAGE;
    c->info.busy = 1;
    ckpt_worker_start(c->worker, stage_job, c);
    v->exposed = weft_now() - v->began;
    return WEFT_OK;
}

weft_status weft_ckpt_begin(weft_ckpt *c, int64_t step, const weft_ckpt_part *parts, size_t n,
                            const char *state) {
    const weft_status s = begin(c, step, parts, n, state, 1);
    return s == WEFT_OK && c->save.unstaged ? weft_ckpt_wait(c, NULL)
                                            : s; /* no memory to stage: the caller waits */
}

weft_status weft_ckpt_staged(weft_ckpt *c, int i) {
    ckpt_save *v = &c->save;
    if (v->phase != CKPT_STAGE || v->unstaged) return WEFT_OK;
    if (i >= v->nparts)
        return weft_fail(WEFT_ERR_ARG, "a checkpoint of %d parts has no part %d", v->nparts, i);
    const double since = weft_now();
    const _Atomic int64_t *left = &v->left[i < 0 ? v->nparts : i];
    if (atomic_load_explicit(left, memory_order_acquire)) WEFT_TRY(ckpt_stage_all(c));
    while (atomic_load_explicit(left, memory_order_acquire)) nap(); /* the writer's last segment */
    v->exposed += weft_now() - since;
    return WEFT_OK;
}

/* --- from phase to phase ----------------------------------------------------------------------------------------------- */

/* Where the leaders' files and their sets are. */
static weft_status share_places(weft_ckpt *c) {
    const ckpt_plan *p = &c->plan;
    ckpt_save *v = &c->save;
    int64_t *at = weft_calloc(p->table.nsets, sizeof *at);
    weft_status s = weft_ctrl_agree(c->g, at ? WEFT_OK : WEFT_ERR_NOMEM);
    for (int f = 0; s >= 0 && f < p->nfiles; f++) {
        const size_t first = ckpt_file_begin(p, f), n = p->file_end[f] - first;
        for (size_t k = 0; k < n; k++) at[k] = v->at[p->file_set[first + k]];
        s = weft_ctrl_bcast(c->g, v->path[f], sizeof v->path[f], p->leader[f]);
        if (s >= 0) s = weft_ctrl_bcast(c->g, at, n * sizeof *at, p->leader[f]);
        for (size_t k = 0; s >= 0 && k < n; k++) v->at[p->file_set[first + k]] = at[k];
    }
    free(at);
    return s;
}

/* The digests of file f's segments to its leader, each rank's in order, padded to the longest list. */
static weft_status gather_digests(weft_ckpt *c, int f, uint8_t (*send)[16], uint8_t (*recv)[16], size_t room,
                                  size_t *next) {
    const ckpt_plan *p = &c->plan;
    ckpt_save *v = &c->save;
    size_t k = 0;
    for (size_t i = 0; i < p->nmine; i++)
        if (p->table.set[p->segment[p->mine[i]].set].file == f) memcpy(send[k++], v->digest[i], 16);
    WEFT_TRY(weft_ctrl_gather(c->g, send, room * 16, recv, p->leader[f]));
    if (p->leader[f] != c->rank) return WEFT_OK;
    memset(next, 0, (size_t)c->size * sizeof *next);
    for (size_t i = 0; i < p->nsegments; i++) {
        const ckpt_segment *g = &p->segment[i];
        if (p->table.set[g->set].file != f) continue;
        const size_t row = (size_t)g->rank * room + next[g->rank]++;
        WEFT_TRY(weft_container_filled(v->writer[f], p->in_file[g->set], g->number, recv[row]));
    }
    return WEFT_OK;
}

/* The most segments of one file that one rank writes. */
static size_t longest_list(const ckpt_plan *p, int ranks, size_t *count) {
    size_t most = 0;
    memset(count, 0, (size_t)ranks * sizeof *count);
    for (size_t i = 0; i < p->nsegments; i++) {
        if (i && p->table.set[p->segment[i].set].file != p->table.set[p->segment[i - 1].set].file)
            memset(count, 0, (size_t)ranks * sizeof *count);
        if (++count[p->segment[i].rank] > most) most = count[p->segment[i].rank];
    }
    return most;
}

static weft_status share_digests(weft_ckpt *c) {
    const ckpt_plan *p = &c->plan;
    size_t *count = weft_calloc((size_t)c->size, sizeof *count);
    const size_t room = count ? longest_list(p, c->size, count) : 0;
    int leads = 0;
    for (int f = 0; f < p->nfiles; f++) leads |= p->leader[f] == c->rank;
    uint8_t(*send)[16] = weft_calloc(room + 1, 16);
    uint8_t(*recv)[16] = leads ? weft_calloc(room * (size_t)c->size + 1, 16) : NULL;
    weft_status s = count && send && (recv || !leads) ? WEFT_OK : WEFT_ERR_NOMEM;
    s = weft_ctrl_agree(c->g, s);
    for (int f = 0; s >= 0 && f < p->nfiles; f++)
        s = weft_ctrl_agree(c->g, gather_digests(c, f, send, recv, room, count));
    free(count);
    free(send);
    free(recv);
    return s;
}

static weft_status share_identities(weft_ckpt *c) {
    for (int f = 0; f < c->plan.nfiles; f++)
        WEFT_TRY(weft_ctrl_bcast(c->g, &c->save.id[f], sizeof c->save.id[f], c->plan.leader[f]));
    return WEFT_OK;
}

static void finish(weft_ckpt *c) {
    const ckpt_save *v = &c->save;
    c->info.step = v->step;
    c->info.bytes = c->plan.bytes;
    c->info.seconds = weft_now() - v->began;
    c->info.exposed = v->exposed;
    c->info.saved++;
    forget(c);
}

/* Every rank is done with the phase. */
static weft_status advance(weft_ckpt *c) {
    ckpt_save *v = &c->save;
    weft_status s = WEFT_OK;
    ckpt_job next = NULL;
    switch (v->phase) {
    case CKPT_STAGE:
        s = share_places(c);
        next = write_job;
        break;
    case CKPT_WRITE:
        s = share_digests(c);
        next = seal_job;
        break;
    case CKPT_SEAL:
        s = share_identities(c);
        next = c->rank == 0 ? commit_job : NULL;
        break;
    default: finish(c); return WEFT_OK;
    }
    if (s < 0) return give_up(c, s);
    v->phase++;
    if (next == write_job && v->unstaged && c->o.fetch)
        ckpt_worker_do(c->worker, next, c); /* the caller waits anyway, and fetching is its own */
    else if (next)
        ckpt_worker_start(c->worker, next, c);
    return WEFT_IN_PROGRESS;
}

static weft_status progress(weft_ckpt *c) {
    const int busy = ckpt_worker_busy(c->worker);
    int64_t v[2] = {busy, !busy && ckpt_worker_result(c->worker) < 0};
    WEFT_TRY(weft_ctrl_allreduce(c->g, v, 2, WEFT_I64, WEFT_MAX));
    if (v[0]) return WEFT_IN_PROGRESS;
    return v[1] ? give_up(c, ckpt_worker_result(c->worker)) : advance(c);
}

weft_status weft_ckpt_progress(weft_ckpt *c, weft_ckpt_info *info) {
    weft_status s = WEFT_OK;
    if (c->save.phase != CKPT_IDLE) {
        const double since = weft_now();
        s = progress(c);
        if (s == WEFT_IN_PROGRESS)
            c->save.exposed += weft_now() - since;
        else
            c->info.exposed += s >= 0 ? weft_now() - since : 0;
    }
    if (info) *info = c->info;
    return s;
}

weft_status weft_ckpt_wait(weft_ckpt *c, weft_ckpt_info *info) {
    weft_status s = WEFT_OK;
    while (c->save.phase != CKPT_IDLE) {
        const double since = weft_now();
        WEFT_TRY(weft_ckpt_staged(c, -1)); /* helps */
        ckpt_worker_join(c->worker, PATIENCE_S);
        c->save.exposed += weft_now() - since;
        s = weft_ckpt_progress(c, NULL);
        if (s < 0) break;
    }
    if (info) *info = c->info;
    return s;
}

weft_status weft_ckpt_save(weft_ckpt *c, int64_t step, const weft_ckpt_part *parts, size_t n,
                           const char *state) {
    WEFT_TRY(weft_ckpt_wait(c, NULL));
    const weft_status s = begin(c, step, parts, n, state, 0);
    return s == WEFT_OK ? weft_ckpt_wait(c, NULL) : s;
}
