/* Planning without running: what a rank of a layout needs, and which layout fits.
 *
 * A plan is made by the code that makes the run's: model, shards and optimiser reserve what they will use, and nothing is
 * committed. So the numbers are the run's own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "runtime/model/mirror.h"
#include "runtime/train/internal.h"

#define MIB 1048576.0

weft_layout_want trainer_wanted(const weft_run_config *c) {
    return (weft_layout_want){.size = {[WEFT_AXIS_TP] = c->layout.tp,
                                       [WEFT_AXIS_CP] = c->layout.cp,
                                       [WEFT_AXIS_DP] = c->layout.dp,
                                       [WEFT_AXIS_PP] = c->layout.pp},
                              .ep = c->layout.ep,
                              .chunks = c->layout.chunks,
                              .zero = c->layout.zero,
                              .batch = c->train.batch,
                              .micro_batch = c->train.micro_batch,
                              .reproducible = c->train.reproducible};
}

/* Forgets what trainer_plan_parts made. */
static void drop_parts(weft_trainer *t) {
    weft_optim_destroy(t->optim);
    weft_shards_destroy(t->shards);
    weft_model_destroy(t->model);
    weft_pipeline_destroy(&t->stage.passes);
    free(t->stage.layers);
    weft_arena_destroy(&t->memory);
    t->optim = NULL;
    t->shards = NULL;
    t->model = NULL;
    t->stage.layers = NULL;
    memset(&t->stage.passes, 0, sizeof t->stage.passes);
}

static weft_status plan_place(weft_trainer *t, const weft_layout_want *w, const weft_model_desc *d, int ranks,
                              int rank) {
    WEFT_TRY(weft_layout_make(w, ranks, rank, &t->layout));
    if (t->c->data.private) WEFT_TRY(weft_layout_by_data(&t->layout));
    const weft_status s = trainer_plan_parts(t, d);
    if (s < 0) drop_parts(t);
    return s;
}

/* --- one rank -------------------------------------------------------------------------------------------------------- */

/* Messages to and from the neighbouring stages, as halos count them: what is sent. */
static weft_traffic stage_traffic(const weft_trainer *t) {
    const weft_layout *l = &t->layout;
    const int stages = l->size[WEFT_AXIS_PP], at = l->at[WEFT_AXIS_PP], parts = stages * l->chunks;
    uint64_t sends = 0;
    for (int c = 0; c < l->chunks && stages > 1; c++) {
        const int k = c * stages + at; /* the virtual stage */
        sends += (uint64_t)(k + 1 < parts) + (uint64_t)(k > 0);
    }
    sends *= (uint64_t)l->micro_count;
    return (weft_traffic){sends, sends * weft_model_boundary(t->model) * (t->c->train.dtype ? 2 : 4)};
}

static weft_traffic times(weft_traffic t, uint64_t n) {
    return (weft_traffic){t.count * n, t.bytes * n};
}

/* Where there is no device, a run that wants one is planned all the same: what it reserves does not depend on it. */
static weft_status open_for_plan(weft_trainer *t, weft_backend_desc *d) {
    const weft_backend_opts bo = {.size = sizeof bo};
    weft_status s = weft_backend_open(trainer_device(t), &bo, &t->backend);
    const int absent = s == WEFT_ERR_UNSUPPORTED && t->c->run.device == WEFT_DEVICE_CUDA;
    if (absent) {
        weft_clear_error();
        s = weft_backend_open("host", &bo, &t->backend);
    }
    WEFT_TRY(s);
    WEFT_TRY(weft_backend_info(t->backend, d));
    if (absent) *d = (weft_backend_desc){.name = "cuda", .device = 1};
    return WEFT_OK;
}

static weft_status plan_one(weft_trainer *t, int ranks, int rank, weft_plan *p) {
    const weft_layout_want w = trainer_wanted(t->c);
    weft_model_desc d;
    WEFT_TRY(trainer_open_data(t));
    WEFT_TRY(trainer_describe_model(t->c, t->data, &d));
    weft_backend_desc by;
    WEFT_TRY(open_for_plan(t, &by));
    WEFT_TRY(plan_place(t, &w, &d, ranks, rank));
    WEFT_TRY(trainer_check_layout(t, by.device));
    const size_t scratch = weft_model_scratch(t->model, 1), more = weft_optim_scratch(t->optim, 1);
    const weft_params *q = weft_model_params(t->model);
    const uint64_t micros = (uint64_t)t->layout.micro_count;
    *p = (weft_plan){.layout = t->layout,
                     .memory = t->memory,
                     .by = by,
                     .scratch = scratch > more ? scratch : more,
                     .parameters = q->count,
                     .data = weft_shards_traffic(t->shards, t->layout.micro_count),
                     .tensor = times(weft_model_traffic(t->model), micros),
                     .sequence = times(weft_model_context_traffic(t->model), micros),
                     .experts = times(weft_model_expert_traffic(t->model), micros),
                     .stage = stage_traffic(t)};
    for (size_t i = 0; i < q->n; i++) p->held += q->item[i].n;
    if (t->layout.size[WEFT_AXIS_PP] > 1) trainer_pipeline_text(t, p->pipeline, sizeof p->pipeline);
    return WEFT_OK;
}

weft_status weft_plan_rank(const weft_run_config *c, int ranks, int rank, weft_plan *p) {
    weft_trainer *t = weft_calloc(1, sizeof *t);
    if (!t) return WEFT_ERR_NOMEM;
    const int64_t axes = c->layout.tp * c->layout.pp * c->layout.cp * (c->layout.dp ? c->layout.dp : 1);
    t->c = c;
    t->lock = -1;
    t->ranks = ranks ? ranks : (int)axes;
    t->rank = rank;
    const weft_status s = plan_one(t, t->ranks, rank, p);
    weft_trainer_destroy(t);
    return s;
}

/* --- layout.auto ------------------------------------------------------------------------------------------------------ */

/* The bytes that the rank with most of them plans: the first or the last stage. */
static weft_status most_bytes(weft_trainer *t, const weft_layout_want *w, const weft_model_desc *d,
                              size_t *most) {
    const int stages = (int)w->size[WEFT_AXIS_PP];
    *most = 0;
    for (int end = 0; end < (stages > 1 ? 2 : 1); end++) {
        WEFT_TRY(plan_place(t, w, d, t->ranks, end ? t->ranks - 1 : 0));
        const size_t bytes = t->memory.bytes + t->memory.outside;
        if (bytes > *most) *most = bytes;
        drop_parts(t);
    }
    return WEFT_OK;
}

static double free_bytes(const weft_trainer *t, const weft_backend_desc *d) {
    if (t->c->layout.memory) return (double)t->c->layout.memory * MIB;
    if (d->device) return 0.95 * (double)d->memory;
    const double page = (double)sysconf(_SC_PAGESIZE), pages = (double)sysconf(_SC_AVPHYS_PAGES);
    return 0.9 * page * pages / (t->o.sharing > 0 ? t->o.sharing : 1);
}

/* The next candidate: zero goes round first, then tp, which stays within a node, then pp. 0: there is none. */
static int next_layout(const weft_trainer *t, int within, weft_layout_want *w) {
    int64_t *tp = &w->size[WEFT_AXIS_TP], *pp = &w->size[WEFT_AXIS_PP];
    if (w->zero < 3) {
        w->zero++;
        return 1;
    }
    w->zero = 0;
    *tp *= 2;
    if (*tp <= within) return 1;
    *tp = 1;
    *pp *= 2;
    return *pp <= t->ranks;
}

/* On devices there is one: all ranks share the batch. */
static int another_layout(const weft_trainer *t, int within, weft_layout_want *w) {
    return !weft_backend_apart(t->backend) && next_layout(t, within, w);
}

static weft_status choose(weft_trainer *t, const weft_model_desc *d, double limit, weft_layout_want *w) {
    const int within = t->o.sharing > 0 && t->o.sharing < t->ranks ? t->o.sharing : t->ranks;
    double least = 0, plain = 0;
    weft_status refused = WEFT_OK; /* the first that was, and why */
    char why[512] = "";
    w->size[WEFT_AXIS_TP] = w->size[WEFT_AXIS_PP] = w->chunks = 1;
    w->zero = 0;
    do {
        size_t bytes = 0;
        const weft_status s = most_bytes(t, w, d, &bytes);
        if (s < 0) { /* heads that do not divide, too few layers: not this one */
            if (refused >= 0) snprintf(why, sizeof why, "%s", weft_last_error());
            if (refused >= 0) refused = s;
            weft_clear_error();
            continue;
        }
        if (!plain) plain = (double)bytes;
        if (!least || (double)bytes < least) least = (double)bytes;
        if ((double)bytes > limit) continue;
        weft_layout l;
        char text[128];
        WEFT_TRY(weft_layout_make(w, t->ranks, 0, &l));
        weft_layout_text(&l, text, sizeof text);
        snprintf(t->why, sizeof t->why,
                 "%s: %.0f MiB a rank fit into %.0f; the first in order of what it costs%s", text,
                 (double)bytes / MIB, limit / MIB, bytes < plain ? "" : " is enough");
        return WEFT_OK;
    } while (another_layout(t, within, w));
    if (!least) return weft_fail(refused, "layout.auto: no layout of %d ranks works: %s", t->ranks, why);
    return weft_fail(
        WEFT_ERR_CONFIG,
        "layout.auto: no layout of %d ranks fits: the smallest plans %.0f MiB a rank, and %.0f may be used; "
        "take more ranks, a smaller train.micro_batch, or train.recompute: layer",
        t->ranks, least / MIB, limit / MIB);
}

weft_status trainer_choose_layout(weft_trainer *t, weft_status s, const weft_model_desc *d,
                                  weft_layout_want *w) {
    const weft_backend_opts bo = {.size = sizeof bo, .device = t->o.place, .round = 1};
    weft_backend_desc by = {0};
    if (s >= 0) s = weft_backend_open(trainer_device(t), &bo, &t->backend);
    if (s >= 0) s = weft_backend_info(t->backend, &by);
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    double limit = -free_bytes(t, &by);
    WEFT_TRY(weft_ctrl_allreduce(t->o.group, &limit, 1, WEFT_F64, WEFT_MAX)); /* the least of all */
    if (s >= 0) s = choose(t, d, -limit, w);
    if (t->backend) weft_backend_close(t->backend);
    t->backend = NULL;
    if (s >= 0 && t->rank == 0) weft_info("layout.auto: %s", t->why);
    return weft_ctrl_agree(t->o.group, s);
}
