/* The public API of a supervised job (weft/job.h) over the control page.
 *
 * A rank whose page is not there yet, or whose agent has been started anew on a node, looks again once a second in
 * weft_job_beat: that a job is supervised is decided by the environment, which all ranks of a step share, so that the
 * collective call is made by all or by none. */
#include "weft/job.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "runtime/job/page.h"

#define LOOK_NS   1000000000u /* between looks for a page that is missing */
#define SAVES     1.5         /* what must be left: so many checkpoints, */
#define STEPS     2.0         /* steps, */
#define MARGIN_MS 15000.0     /* and milliseconds */

struct weft_job {
    char name[JOB_PAGE_NAME];
    uint32_t rank;            /* of the node: its slot */
    _Atomic(job_slot *) slot; /* NULL: no page yet */
    job_page page;
    atomic_flag looking;
    _Atomic uint64_t looked; /* ns */
    /* what the slot is to say when it is there, and what the steps are measured by */
    _Atomic uint64_t step, saved, save_ns, step_ns, advanced_ns;
    int why; /* told by weft_job_should_stop: stays */
};

const char *weft_stop_text(int why) {
    static const char *const text[] = {"",      "time limit",     "preempted", "node drained",
                                       "asked", "voucher used up"};
    return why >= 0 && why < (int)(sizeof text / sizeof *text) ? text[why] : "stopped";
}

/* The rank's place on its node, as its launcher says: mpirun, srun, Hydra. */
static weft_status local_rank(uint32_t *rank) {
    static const char *const name[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"};
    *rank = 0;
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        const char *text = getenv(name[i]);
        char *end = NULL;
        if (!text || !*text) continue;
        const unsigned long v = strtoul(text, &end, 10);
        if (*end || v >= JOB_PAGE_RANKS_MOST)
            return weft_fail(WEFT_ERR_CONFIG, "%s=%.40s is no rank of a node", name[i], text);
        *rank = (uint32_t)v;
        return WEFT_OK;
    }
    return WEFT_OK;
}

/* A job is supervised where its supervisor says so to all ranks alike. */
static int supervised(void) {
    const char *page = getenv("WEFT_JOB_PAGE"), *supervisor = getenv("WEFT_SUPERVISOR");
    return (page && *page) || (supervisor && *supervisor);
}

/* One thread at a time, once a second. */
static void look(weft_job *j) {
    const uint64_t now = weft_now_ns(), last = atomic_load(&j->looked);
    if ((last && now - last < LOOK_NS) || atomic_flag_test_and_set(&j->looking)) return;
    atomic_store(&j->looked, now);
    if (!atomic_load(&j->slot) && job_page_open(j->name, &j->page) >= 0) {
        if (job_slot_take(&j->page, j->rank) >= 0)
            atomic_store_explicit(&j->slot, j->page.slot + j->rank, memory_order_release);
        else
            job_page_close(&j->page);
    }
    weft_clear_error();
    atomic_flag_clear(&j->looking);
}

static job_slot *slot_of(const weft_job *j) {
    return atomic_load_explicit(&j->slot, memory_order_acquire);
}

weft_status weft_job_attach(weft_job **out) {
    *out = NULL;
    if (!supervised())
        return weft_fail(WEFT_ERR_UNSUPPORTED,
                         "not a supervised job: neither WEFT_SUPERVISOR nor WEFT_JOB_PAGE is set");
    weft_job *j = weft_calloc(1, sizeof *j);
    if (!j) return WEFT_ERR_NOMEM;
    weft_status s = job_page_name(j->name);
    if (s >= 0) s = local_rank(&j->rank);
    if (s < 0) {
        free(j);
        return s == WEFT_ERR_UNSUPPORTED ? weft_context(WEFT_ERR_CONFIG, "WEFT_SUPERVISOR is set") : s;
    }
    look(j);
    *out = j;
    return WEFT_OK;
}

static void store(_Atomic uint64_t *word, uint64_t v) {
    atomic_store_explicit(word, v, memory_order_release);
}

/* Time of a step: from the first beat of one to the first beat of a later one. */
static void measure(weft_job *j, uint64_t step, uint64_t now) {
    const uint64_t before = atomic_exchange(&j->step, step);
    if (step == before) return;
    const uint64_t at = atomic_exchange(&j->advanced_ns, now);
    if (at && step > before && now > at) store(&j->step_ns, (now - at) / (step - before));
}

weft_status weft_job_beat(weft_job *j, uint64_t step, uint32_t phase) {
    if (!j) return WEFT_OK;
    const uint64_t now = weft_now_ns();
    measure(j, step, now);
    if (!slot_of(j)) look(j);
    job_slot *s = slot_of(j);
    if (!s) return WEFT_OK;
    store(&s->step, step);
    atomic_store_explicit(&s->phase, phase, memory_order_release);
    store(&s->step_ns, atomic_load(&j->step_ns));
    store(&s->saved, atomic_load(&j->saved));
    store(&s->save_ns, atomic_load(&j->save_ns));
    store(&s->mono_ns, now);
    return WEFT_OK;
}

weft_status weft_job_saved(weft_job *j, uint64_t step, double seconds) {
    if (!j) return WEFT_OK;
    store(&j->saved, step + 1);
    if (seconds > 0 && seconds < 1e9) store(&j->save_ns, (uint64_t)(seconds * 1e9));
    job_slot *s = slot_of(j);
    if (!s) return WEFT_OK;
    store(&s->save_ns, atomic_load(&j->save_ns));
    store(&s->saved, step + 1);
    return WEFT_OK;
}

int weft_job_asked(const weft_job *j) {
    if (!j || !slot_of(j)) return WEFT_STOP_NONE;
    const uint64_t why = atomic_load_explicit(&j->page.head->stop, memory_order_acquire);
    return why > INT32_MAX ? INT32_MAX : (int)why;
}

int64_t weft_job_remaining_ms(const weft_job *j) {
    if (!j || !slot_of(j)) return -1;
    const int64_t end = atomic_load_explicit(&j->page.head->deadline, memory_order_acquire);
    const int64_t now = (int64_t)weft_now_ns();
    if (end <= 0) return -1;
    return end > now ? (end - now) / 1000000 : 0;
}

/* What this rank alone would do. */
static int proposal(const weft_job *j, const weft_stop_cost *c, int64_t remaining) {
    const int asked = weft_job_asked(j);
    const double step = c && c->step_s > 0 ? c->step_s : (double)atomic_load(&j->step_ns) * 1e-9;
    const double save = c && c->save_s > 0 ? c->save_s : (double)atomic_load(&j->save_ns) * 1e-9;
    if (asked) return asked;
    if (remaining >= 0 && (double)remaining <= 1e3 * (SAVES * save + STEPS * step) + MARGIN_MS)
        return WEFT_STOP_TIME;
    return WEFT_STOP_NONE;
}

/* One MAX: the reason (turned around, so that the smallest wins), the step, and the time left (turned around). */
weft_status weft_job_should_stop(weft_job *j, weft_group *g, const weft_stop_cost *c, weft_stop *out) {
    *out = (weft_stop){.remaining_ms = -1};
    if (!j) return WEFT_OK;
    const int64_t left = weft_job_remaining_ms(j);
    const int why = j->why ? j->why : proposal(j, c, left);
    int64_t v[3] = {why ? INT64_MAX - why : 0, (int64_t)atomic_load(&j->step),
                    left < 0 ? 0 : INT64_MAX - left};
    WEFT_TRY_CTX(weft_allreduce(g, v, v, 3, WEFT_I64, WEFT_MAX), "asking whether to stop");
    j->why = v[0] ? (int)(INT64_MAX - v[0]) : WEFT_STOP_NONE;
    *out =
        (weft_stop){.why = j->why, .at_step = (uint64_t)v[1], .remaining_ms = v[2] ? INT64_MAX - v[2] : -1};
    return WEFT_OK;
}

void weft_job_detach(weft_job *j) {
    if (!j) return;
    if (slot_of(j)) {
        job_slot_leave(&j->page, j->rank);
        job_page_close(&j->page);
    }
    free(j);
}
