/* Training across sites, as the trainer sees it: at the end of some steps a fragment of the model leaves for the other
 * sites, and at the end of others one comes back.
 *
 * Rank 0 leads: it alone knows the other sites (runtime/sites). What is to be done after a step it tells the other ranks
 * with the step's statistics, so that all do it at the same step. The masters of a fragment, wherever the layout has put
 * them, meet in one vector: every rank adds what it owns to zeros, and the sum over ranks is the fragment; back it goes as
 * a broadcast of which everyone takes its parts. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/sites/sites.h"
#include "runtime/train/internal.h"

#define LOOK_NS    20000000 /* between two looks while a step waits */
#define SAY_S      30.0     /* of waiting before a word about it */
#define OVERTAKEN  0.5f     /* of the local weights stays when training has gone on since they left */
#define ROOM       ((size_t)1 << 18) /* elements */
#define LAST_TRIES 3
#define LEAVE_MS   60000
#define DRAIN_MS   10000 /* of a job that has saved and is to end */

enum { PUT_SET, PUT_BLEND, PUT_ADD };

/* --- the fragment in one vector --------------------------------------------------------------------------------------- */

/* The vector is the host's; the masters may be a device's, and then pass through `room` where the host computes. */
typedef struct moving {
    weft_shards *shards;
    float *room; /* [ROOM]; NULL: masters are the host's */
    int how;
} moving;

static weft_status copy(const moving *m, float *to, const float *from, size_t n) {
    if (m->room) return weft_shards_copy(m->shards, to, from, n * sizeof *to);
    memcpy(to, from, n * sizeof *to);
    return WEFT_OK;
}

static weft_status take_run(void *arg, float *vector, float *part, size_t n) {
    return copy(arg, vector, part, n);
}

static void mix(int how, const float *vector, float *part, size_t n) {
    for (size_t i = 0; how == PUT_BLEND && i < n; i++)
        part[i] = OVERTAKEN * part[i] + (1 - OVERTAKEN) * vector[i];
    for (size_t i = 0; how == PUT_ADD && i < n; i++) part[i] += vector[i];
}

static weft_status put_run(void *arg, float *vector, float *part, size_t n) {
    const moving *m = arg;
    if (m->how == PUT_SET) return copy(m, part, vector, n);
    if (!m->room) mix(m->how, vector, part, n);
    for (size_t at = 0, k; m->room && at < n; at += k) {
        k = n - at < ROOM ? n - at : ROOM;
        WEFT_TRY(copy(m, m->room, part + at, k));
        mix(m->how, vector + at, m->room, k);
        WEFT_TRY(copy(m, part + at, m->room, k));
    }
    return WEFT_OK;
}

/* Of ranks that hold the same elements one gives them. */
static int gives(const weft_trainer *t, const weft_piece *q) {
    const weft_layout *l = &t->layout;
    const weft_unit *u = &weft_model_params(t->model)->unit[q->unit];
    if (u->role == WEFT_UNIT_TABLE || (!q->param->split && l->at[WEFT_AXIS_TP])) return 0;
    if (weft_shards_zero(t->shards)) return 1;
    return u->role == WEFT_UNIT_EXPERTS ? !l->at[WEFT_AXIS_CP] && l->at[WEFT_AXIS_DP] < l->ep
                                        : l->data_at == 0;
}

static weft_status visit(weft_trainer *t, int p, int givers, weft_fragment_run *run, int how) {
    moving m = {t->shards, t->outer.room, how};
    size_t n = 0;
    const weft_piece *q = weft_shards_pieces(t->shards, &n);
    for (size_t i = 0; i < n; i++) {
        const weft_share *h = weft_shards_share(t->shards, q[i].unit);
        weft_ckpt_part part[WEFT_PIECE_PARTS];
        if (givers && !gives(t, &q[i])) continue;
        const size_t parts = weft_piece_parts(&q[i], q[i].param->name, WEFT_F32, h->master + q[i].at, part);
        for (size_t k = 0; k < parts; k++)
            WEFT_TRY(weft_fragment_visit(&t->outer.fragments, p, &part[k], t->outer.vector, run, &m));
    }
    return WEFT_OK;
}

/* The masters of fragment p into the vector, on rank 0 at least. Collective. */
static weft_status take(weft_trainer *t, int p) {
    const size_t n = t->outer.fragments.item[p].elements;
    memset(t->outer.vector, 0, n * sizeof *t->outer.vector);
    WEFT_TRY(visit(t, p, 1, take_run, 0));
    if (t->outer.alone) return WEFT_OK;
    return weft_allreduce(t->o.group, t->outer.vector, t->outer.vector, n, WEFT_F32, WEFT_SUM);
}

/* Rank 0's vector into the masters of fragment p, everywhere. Collective; weft_shards_changed must follow. */
static weft_status put(weft_trainer *t, int p, int how) {
    const size_t n = t->outer.fragments.item[p].elements;
    if (t->ranks > 1) WEFT_TRY(weft_bcast(t->o.group, t->outer.vector, n, WEFT_F32, 0));
    return visit(t, p, 0, put_run, how);
}

/* --- opening ---------------------------------------------------------------------------------------------------------- */

/* Called again and again while rank 0 waits to join. */
static int asked(void *t) {
    trainer_phase(t, WEFT_JOB_WAIT);
    return trainer_asked(t);
}

static weft_status open_sites(weft_trainer *t, const weft_model_desc *d) {
    const weft_run_config *c = t->c;
    const weft_sites_opts o = {.size = sizeof o,
                               .hub = t->o.hub ? t->o.hub : c->sites.join,
                               .invite = t->o.invite ? t->o.invite : c->sites.invite,
                               .lab_name = c->sites.name,
                               .listen = c->sites.listen,
                               .advertise = c->sites.advertise,
                               .rate = c->sites.rate * 1e6 / 8,
                               .delay_ms = (int)c->sites.delay,
                               .insecure_lab = c->sites.lab,
                               .device = trainer_host(t),
                               .model = *d,
                               .rules = {.preset = (weft_sites_preset)c->sites.preset,
                                         .every = (uint32_t)c->sites.every,
                                         .up = (weft_codec)c->sites.up,
                                         .down = (weft_codec)c->sites.down,
                                         .chunk = (uint32_t)c->sites.chunk,
                                         .mu = (float)c->sites.momentum,
                                         .eta = (float)c->sites.lr,
                                         .quorum = (uint32_t)c->sites.quorum,
                                         .min_sites = (uint32_t)c->sites.least,
                                         .audit_every = (uint32_t)c->sites.audit},
                               .asked = asked,
                               .asked_arg = t};
    WEFT_TRY(weft_sites_open(&o, &t->outer.sites));
    weft_arena_note(&t->memory, "sites", weft_sites_memory(t->outer.sites));
    return WEFT_OK;
}

weft_status trainer_outer_open(weft_trainer *t, const weft_model_desc *d) {
    const weft_layout *l = &t->layout;
    if (!weft_run_has_sites(t->c)) return WEFT_OK;
    t->outer.on = 1;
    t->outer.returned = -1;
    t->outer.alone = !l->zero && l->size[WEFT_AXIS_TP] == 1 && l->size[WEFT_AXIS_PP] == 1 && l->ep == 1;
    WEFT_TRY(weft_fragments_make(d, t->c->sites.preset != WEFT_PRESET_SYNC, &t->outer.fragments));
    const size_t n = (size_t)t->outer.fragments.n;
    t->outer.vector = weft_calloc(t->outer.fragments.largest, sizeof *t->outer.vector);
    t->outer.left = weft_calloc(n, sizeof *t->outer.left);
    t->outer.work = weft_calloc(n, sizeof *t->outer.work);
    if (weft_shards_apart(t->shards) && !(t->outer.room = weft_calloc(ROOM, sizeof *t->outer.room)))
        return WEFT_ERR_NOMEM;
    if (!t->outer.vector || !t->outer.left || !t->outer.work) return WEFT_ERR_NOMEM;
    weft_arena_note(&t->memory, "sites", t->outer.fragments.largest * sizeof *t->outer.vector);
    return t->rank == 0 ? open_sites(t, d) : WEFT_OK;
}

void trainer_outer_close(weft_trainer *t) {
    weft_sites_close(t->outer.sites);
    weft_fragments_free(&t->outer.fragments);
    free(t->outer.vector);
    free(t->outer.room);
    free(t->outer.left);
    free(t->outer.work);
}

static void say(void *arg, const char *text) {
    (void)arg;
    weft_info("joining the other sites: %s", text);
}

/* All fragments as the other sites have them. Collective. */
static weft_status take_over(weft_trainer *t) {
    for (int p = 0; p < t->outer.fragments.n; p++) {
        int32_t moved = t->rank == 0 && weft_sites_moved(t->outer.sites, p);
        WEFT_TRY(weft_ctrl_bcast(t->o.group, &moved, sizeof moved, 0));
        t->outer.left[p] = t->st.step;
        if (!moved) continue; /* what was trained here since is still good */
        if (t->rank == 0)
            memcpy(t->outer.vector, weft_sites_weights(t->outer.sites, p),
                   t->outer.fragments.item[p].elements * sizeof *t->outer.vector);
        WEFT_TRY(put(t, p, PUT_SET));
    }
    return WEFT_OK;
}

weft_status trainer_outer_join(weft_trainer *t) {
    weft_status s = WEFT_OK;
    if (!t->outer.on) return WEFT_OK;
    int32_t began = t->rank != 0 || weft_sites_restored(t->outer.sites);
    WEFT_TRY(weft_ctrl_bcast(t->o.group, &began, sizeof began, 0));
    for (int p = 0; p < t->outer.fragments.n && !began; p++) {
        WEFT_TRY(take(t, p));
        if (t->rank == 0) weft_sites_begin(t->outer.sites, p, t->outer.vector);
    }
    int32_t stopped = 0;
    trainer_phase(t, WEFT_JOB_WAIT);
    if (t->rank == 0) {
        const double patience = t->c->sites.patience;
        s = weft_sites_join(t->outer.sites, patience > 0 ? (int64_t)(patience * 1e3) : -1, say, t);
        stopped = s == WEFT_ERR_STATE && trainer_asked(t);
        if (stopped) s = WEFT_OK;
    }
    WEFT_TRY_CTX(weft_ctrl_agree(t->o.group, s), "joining the other sites");
    WEFT_TRY(weft_ctrl_bcast(t->o.group, &stopped, sizeof stopped, 0));
    t->outer.unjoined = stopped;
    if (stopped) return WEFT_OK;
    if (t->rank == 0) {
        weft_sites_info i;
        weft_sites_look(t->outer.sites, &i);
        weft_info("this site takes part: %d active, %d fragments, a round of each every %lld steps", i.sites,
                  t->outer.fragments.n, (long long)t->c->sites.every);
    }
    trainer_phase(t, WEFT_JOB_START);
    return take_over(t);
}

/* --- what to do after a step ------------------------------------------------------------------------------------------ */

void trainer_outer_plan(weft_trainer *t, double plan[TRAINER_OUTER]) {
    int p = -1;
    memset(plan, 0, TRAINER_OUTER * sizeof *plan);
    if (t->rank != 0) return;
    const weft_sites_what what = weft_sites_news(t->outer.sites, &p);
    const int due = weft_sites_due(t->outer.sites, t->st.step + 1, t->outer.seconds_a_step);
    plan[0] = p + 1;
    plan[1] = what;
    plan[2] = due + 1;
    plan[3] = weft_sites_must_wait(t->outer.sites) || (due >= 0 && t->c->sites.preset == WEFT_PRESET_SYNC);
}

static void tell(weft_trainer *t, int p, weft_sites_what what) {
    static const char *const mode[] = {"", "merge", "rebase", "replace"};
    weft_sites_info i;
    char json[256];
    weft_sites_look(t->outer.sites, &i);
    snprintf(json, sizeof json,
             "\"step\":%lld,\"fragment\":%d,\"mode\":\"%s\",\"lag\":%lld,\"sites\":%d,\"seconds\":%.3f",
             (long long)t->st.step, p, mode[what], (long long)(t->st.step - t->outer.left[p]), i.sites,
             i.round_s);
    trainer_event(t, "outer", json);
}

/* New weights: what the losses of the old ones were says nothing about them. */
static void forget_losses(weft_trainer *t) {
    weft_guard *g = &t->st.guard;
    *g = (weft_guard){.limit = g->limit, .skipped = g->skipped};
}

weft_status trainer_outer_return(weft_trainer *t, const char *why) {
    char json[128];
    if (t->outer.returned == t->outer.merged)
        return weft_fail(
            WEFT_ERR_DIVERGED,
            "%lld steps in a row were skipped (%s), again after going back to the outer weights. Try a "
            "smaller optim.lr, or a larger optim.guard if the data is to blame",
            (long long)t->st.guard.in_a_row, why);
    WEFT_TRY(trainer_staged(t));
    for (int p = 0; p < t->outer.fragments.n; p++) {
        if (t->rank == 0)
            memcpy(t->outer.vector, weft_sites_weights(t->outer.sites, p),
                   t->outer.fragments.item[p].elements * sizeof *t->outer.vector);
        WEFT_TRY(put(t, p, PUT_SET));
    }
    t->outer.returned = t->outer.merged;
    if (t->rank == 0) {
        weft_warn("step %lld: %lld steps in a row were skipped (%s); back to the outer weights",
                  (long long)t->st.step, (long long)t->st.guard.in_a_row, why);
        snprintf(json, sizeof json, "\"step\":%lld,\"reason\":\"%s\"", (long long)t->st.step, why);
        trainer_event(t, "rollback", json);
    }
    forget_losses(t);
    return weft_shards_changed(t->shards, 1);
}

/* What has come back from the other sites goes into the weights. Collective. */
static weft_status merge(weft_trainer *t, int p, weft_sites_what what) {
    weft_status s = WEFT_OK;
    const int overtaken = what == WEFT_SITES_MERGE && t->st.step - t->outer.left[p] > 1;
    if (t->rank == 0) {
        s = weft_sites_merge(t->outer.sites, p, t->outer.vector);
        if (s >= 0) tell(t, p, what);
    }
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    t->outer.merged++;
    if (t->saving.saved == t->st.step) t->saving.saved = -1; /* that checkpoint has other weights */
    if (what == WEFT_SITES_REPLACE) forget_losses(t);
    WEFT_TRY(put(t, p, what == WEFT_SITES_REBASE ? PUT_ADD : overtaken ? PUT_BLEND : PUT_SET));
    return weft_shards_changed(t->shards, 1);
}

/* The work of this site in fragment p leaves. Collective. */
static weft_status offer(weft_trainer *t, int p) {
    weft_status s = WEFT_OK;
    WEFT_TRY(take(t, p));
    t->outer.left[p] = t->st.step;
    if (t->rank == 0) {
        weft_sites_work *w = &t->outer.work[p];
        w->loss /= w->steps ? (double)w->steps : 1;
        s = weft_sites_offer(t->outer.sites, p, t->outer.vector, w);
        memset(w, 0, sizeof *w);
    }
    return weft_ctrl_agree(t->o.group, s);
}

/* One look of rank 0 while all wait: what has come, whether to go on waiting. */
typedef struct look {
    int32_t what, p, wait, stop;
} look;

static look look_around(weft_trainer *t) {
    look k = {.p = -1};
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    const double until = weft_now() + 1.0; /* the other ranks hear from rank 0 at least so often */
    for (;;) {
        k.what = weft_sites_news(t->outer.sites, &k.p);
        k.wait = weft_sites_must_wait(t->outer.sites) && !trainer_asked(t);
        if (k.what != WEFT_SITES_NOTHING || !k.wait || weft_now() > until) return k;
        nanosleep(&pause, NULL);
    }
}

static weft_status lost(weft_trainer *t) {
    const weft_status s = t->rank == 0 ? weft_sites_error(t->outer.sites) : WEFT_OK;
    return weft_ctrl_agree(t->o.group, s);
}

/* Training stands still until the other sites are there. Collective. */
static weft_status wait_for_sites(weft_trainer *t) {
    const double began = weft_now();
    double next = began + SAY_S;
    for (look k = {.wait = 1}; k.wait;) {
        trainer_phase(t, WEFT_JOB_WAIT);
        if (t->rank == 0) k = look_around(t);
        WEFT_TRY(weft_ctrl_bcast(t->o.group, &k, sizeof k, 0));
        if (k.what == WEFT_SITES_LOST) return lost(t);
        if (k.what != WEFT_SITES_NOTHING) {
            WEFT_TRY(merge(t, k.p, (weft_sites_what)k.what));
            k.wait = 1; /* was it the last? */
        }
        if (t->rank == 0 && weft_now() > next) {
            weft_sites_info i;
            weft_sites_look(t->outer.sites, &i);
            weft_info("step %lld: waiting for %s for %.0f s now", (long long)t->st.step,
                      i.hub ? "other sites" : "the hub, which does not answer,", weft_now() - began);
            next = weft_now() + SAY_S;
        }
    }
    t->outer.waited += weft_now() - began;
    return WEFT_OK;
}

static void count_work(weft_trainer *t, const step_result *r) {
    for (int p = 0; p < t->outer.fragments.n; p++) {
        weft_sites_work *w = &t->outer.work[p];
        w->tokens += (uint64_t)r->tokens;
        w->steps++;
        w->loss += isfinite(r->loss) ? r->loss : 0;
    }
    double *mean = &t->outer.seconds_a_step;
    *mean = *mean > 0 ? 0.9 * *mean + 0.1 * r->seconds : r->seconds;
}

weft_status trainer_outer(weft_trainer *t, const double plan[TRAINER_OUTER], const step_result *r) {
    const weft_sites_what what = (weft_sites_what)plan[1];
    if (t->rank == 0) count_work(t, r);
    if (what == WEFT_SITES_LOST) return lost(t);
    if (plan[0] > 0 || plan[2] > 0) WEFT_TRY(trainer_staged(t));
    if (plan[0] > 0) WEFT_TRY(merge(t, (int)plan[0] - 1, what));
    if (plan[2] > 0) WEFT_TRY(offer(t, (int)plan[2] - 1));
    return plan[3] > 0 ? wait_for_sites(t) : WEFT_OK;
}

/* --- the end ---------------------------------------------------------------------------------------------------------- */

/* Rank 0 looks until fragment p may leave, or (back) has come back. */
static look look_for(weft_trainer *t, int p, int back) {
    look k = {.p = -1};
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    const double until = weft_now() + 1.0;
    for (;;) {
        k.what = weft_sites_news(t->outer.sites, &k.p);
        k.wait = back ? !weft_sites_back(t->outer.sites, p) : !weft_sites_may(t->outer.sites, p);
        k.stop = trainer_asked(t);
        if (k.what != WEFT_SITES_NOTHING || !k.wait || k.stop || weft_now() > until) return k;
        nanosleep(&pause, NULL);
    }
}

/* DROPPED: asked to stop. */
static weft_status wait_for(weft_trainer *t, int p, int back) {
    for (look k = {.wait = 1}; k.wait;) {
        trainer_phase(t, WEFT_JOB_WAIT);
        if (t->rank == 0) k = look_for(t, p, back);
        WEFT_TRY(weft_ctrl_bcast(t->o.group, &k, sizeof k, 0));
        if (k.what == WEFT_SITES_LOST) return lost(t);
        if (k.stop) return WEFT_DROPPED;
        if (k.what != WEFT_SITES_NOTHING) {
            t->outer.left[k.p] = t->st.step; /* nothing is trained any more: what comes is what stays */
            WEFT_TRY(merge(t, k.p, (weft_sites_what)k.what));
            k.wait = 1;
        }
    }
    return WEFT_OK;
}

/* What was learnt here and has not left yet: all ranks know of which fragments. */
static weft_status what_is_left(weft_trainer *t, uint8_t *left) {
    for (int p = 0; t->rank == 0 && p < t->outer.fragments.n; p++)
        left[p] = t->outer.work[p].steps > 0 || weft_sites_owes(t->outer.sites, p);
    return weft_ctrl_bcast(t->o.group, left, (size_t)t->outer.fragments.n, 0);
}

/* Every fragment leaves for the last time, and comes back; again if a round went on without it. DROPPED: asked to stop. */
static weft_status last_rounds(weft_trainer *t) {
    uint8_t left[WEFT_FRAGMENTS_MOST] = {0};
    for (int tries = 0; tries < LAST_TRIES; tries++) {
        WEFT_TRY(what_is_left(t, left));
        for (int back = 0; back < 2; back++)
            for (int p = 0; p < t->outer.fragments.n; p++) {
                if (!left[p]) continue;
                const weft_status s = wait_for(t, p, back);
                if (s != WEFT_OK) return s;
                if (!back) WEFT_TRY(offer(t, p));
            }
    }
    return WEFT_OK;
}

weft_status trainer_outer_finish(weft_trainer *t) {
    if (!t->outer.on) return WEFT_OK;
    WEFT_TRY(trainer_staged(t));
    const weft_status s = last_rounds(t);
    if (s != WEFT_OK) return s;
    if (t->rank == 0 && weft_sites_leave(t->outer.sites, LEAVE_MS) < 0)
        weft_warn("leaving the other sites: %s", weft_last_error());
    return WEFT_OK;
}

void trainer_outer_drain(weft_trainer *t) {
    weft_sites_info i;
    int64_t limit = DRAIN_MS;
    const int64_t left = weft_job_remaining_ms(t->job);
    if (!t->outer.sites || !t->job) return;
    weft_sites_look(t->outer.sites, &i);
    if (left >= 0 && left / 4 < limit) limit = left / 4;
    if (i.hub && weft_sites_leave(t->outer.sites, limit) < 0)
        weft_info("the other sites were not told in time that this one stops: %s", weft_last_error());
}

void trainer_outer_record(weft_trainer *t) {
    weft_sites_info i;
    if (!t->outer.sites) return;
    weft_sites_look(t->outer.sites, &i);
    trainer_accounts(t, 0);
    const double v[TRAINER_SITES_FIGURES] = {i.sites,        (double)i.commits,  (double)i.missed,
                                             (double)i.sent, (double)i.received, i.round_s,
                                             t->outer.waited};
    for (int k = 0; k < TRAINER_SITES_FIGURES; k++) weft_metric_set(t->outer.id[k], v[k]);
}
