/* One optimiser step: micro-batches, the gradient sum over ranks, the guard, the update.
 *
 * The gradient of a unit of the model leaves when the last micro-batch is through with it (runtime/shard); the kernels'
 * tick lets the engine move pieces between the blocks of long ops. The update needs the norm of all gradients, so the wait
 * for them comes at the end. */
#include "runtime/train/internal.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/range.h"
#include "base/trace.h"

const char *const trainer_phase_name[PHASES] = {"data",           "forward", "backward",
                                                "wait for ranks", "update",  "other"};

void trainer_spend_until(weft_trainer *t, int phase, double *since, double now) {
    t->phase[phase] += now - *since;
    weft_trace_add(WEFT_TRACK_STEP, trainer_phase_name[phase], (uint64_t)(*since * 1e9),
                   (uint64_t)(now * 1e9), (uint32_t)t->st.step);
    *since = now;
}

void trainer_spend(weft_trainer *t, int phase, double *since) {
    trainer_spend_until(t, phase, since, weft_now());
}

/* What this rank's routers did, behind the other statistics. */
static void note_router(const weft_trainer *t, double *to) {
    const int64_t experts = weft_model_desc_of(t->model)->experts;
    weft_router_stats r;
    if (!experts) return;
    weft_model_router(t->model, &r);
    to[0] = r.balance;
    to[1] = r.z;
    for (int64_t e = 0; e < experts; e++) to[2 + e] = r.load[e];
}

static void read_router(const weft_trainer *t, const double *from, step_result *r) {
    const int64_t experts = weft_model_desc_of(t->model)->experts;
    const double tokens = (double)(t->layout.batch * t->context);
    double most = 0, all = 0;
    if (!experts) return;
    for (int64_t e = 0; e < experts; e++) {
        most = fmax(most, from[2 + e]);
        all += from[2 + e];
    }
    r->router[ROUTER_BALANCE] = from[0] / tokens;
    r->router[ROUTER_Z] = from[1] / tokens;
    r->router[ROUTER_LOAD] = most * (double)experts / all;
}

static weft_status sum_over_ranks(weft_trainer *t) {
    const int64_t n = t->layout.micro_total;
    const int asked = trainer_asked(t);
    WEFT_TRY(weft_shards_sum(t->shards));
    if (asked) t->losses[2 * n + asked - 1] = 1;
    t->losses[2 * n + STAT_CLOCK] = t->rank == 0 ? weft_now() - t->began : 0; /* rank 0's clock rules */
    if (t->outer.on) trainer_outer_plan(t, t->losses + t->nstats - TRAINER_OUTER);
    note_router(t, t->losses + 2 * n + STAT_ROUTER);
    WEFT_TRY_CTX(weft_ctrl_allreduce(t->o.group, t->losses, t->nstats, WEFT_F64, WEFT_SUM),
                 "step statistics");
    return WEFT_OK;
}

static double progress(const weft_trainer *t, double elapsed) {
    double p = (double)(t->st.step + 1) / (double)t->c->train.steps;
    if (t->c->train.time_limit > 0) p = fmax(p, elapsed / t->c->train.time_limit);
    return p;
}

weft_status trainer_step(weft_trainer *t, step_result *r) {
    memset(r, 0, sizeof *r);
    memset(t->phase, 0, sizeof t->phase);
    double begin = weft_now(), since = begin;
    int64_t n = t->layout.micro_total;
    memset(t->losses, 0, t->nstats * sizeof *t->losses);
    weft_model_router_clear(t->model);

    WEFT_TRY(trainer_passes(t, &since));
    weft_range_push(trainer_phase_name[PHASE_COMM]);
    WEFT_TRY(sum_over_ranks(t));
    trainer_spend(t, PHASE_COMM, &since);
    weft_range_pop();
    weft_range_push(trainer_phase_name[PHASE_OPTIM]);

    double loss = 0, tokens = 0;
    for (int64_t i = 0; i < n; i++) {
        loss += t->losses[2 * i];
        tokens += t->losses[2 * i + 1];
    }
    r->stop = trainer_stop_text(t->losses + 2 * n);
    t->st.elapsed = t->losses[2 * n + STAT_CLOCK];
    r->tokens = (int64_t)tokens;
    read_router(t, t->losses + 2 * n + STAT_ROUTER, r);
    r->loss = loss / tokens;
    r->lr = weft_schedule_lr(&t->schedule, progress(t, t->st.elapsed));
    WEFT_TRY(weft_optim_norm(t->optim, tokens, &r->norm));
    r->verdict = weft_guard_judge(&t->st.guard, r->loss, r->norm, &r->z);
    if (r->verdict == WEFT_ACCEPT) {
        WEFT_TRY(trainer_staged(t)); /* what is being saved may change now */
        WEFT_TRY(weft_optim_step(t->optim, tokens, r->norm, r->lr));
        WEFT_TRY(weft_shards_changed(t->shards, 0));
        t->st.updates = *weft_optim_updates(t->optim);
    }
    t->st.step++;
    t->st.g += (uint64_t)t->layout.batch;
    t->st.tokens += (uint64_t)tokens;
    trainer_spend(t, PHASE_OPTIM, &since);
    weft_range_pop();
    r->seconds = weft_now() - begin;
    return t->outer.on ? trainer_outer(t, t->losses + t->nstats - TRAINER_OUTER, r) : WEFT_OK;
}
