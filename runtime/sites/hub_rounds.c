/* Attempts, from OPEN to COMMIT; one fragment at a time, fragments know nothing of each other.
 *
 *   IDLE        at the first READY an attempt is opened to all active members; it fixes who exchanges and the parts
 *   OPEN        a contribution is complete when every owner (gather: every member) has it. Sealed when all that are waited
 *               for are complete; or a quorum is and its grace is over; or the deadline is over with at least one
 *   SEALED      owners reduce; when all have, the root of the result goes out; members that have it are prepared
 *   COMMITTING  the record is on its way to the disk
 *
 * Waited for is who has been ready for this fragment since it became active, or has seen a round of it: nobody waits for a
 * joiner that came in the middle, and it counts from its first whole contribution. A contribution that is not finite, or
 * far larger than its site's last ones, is complete but unfit.
 *
 * What cannot be completed ends by deadlines: an attempt whose owner is gone is void; members that exchange with the
 * fewest others, or do not get the result, are fenced, the smaller side first; those that are left open the next
 * attempt with the same contributions. Each deadline fences somebody or voids an attempt, so a round ends. */
#include <math.h>
#include <string.h>

#include "runtime/sites/hub_internal.h"

#define NORMS_ENOUGH 4   /* before a norm can be far out */
#define FAR_OUT      5   /* times the median */
#define SHIFT        1.2 /* longer than with the best shares */
#define SHIFTS       5   /* commits in a row */

/* Members of the attempt that are still with it. */
static weft_site_set present(const weft_hub_machine *h, const weft_hub_fragment *f) {
    return f->attempt.members & ~f->lost & weft_hub_active(h);
}

static weft_hub_fragment *in_attempt(weft_hub_machine *h, uint32_t m, const weft_site_key *k) {
    if (k->fragment >= h->run.nfragments) return NULL;
    weft_hub_fragment *f = &h->fragment[k->fragment];
    if (f->phase != WEFT_ROUND_OPEN && f->phase != WEFT_ROUND_SEALED) return NULL;
    if (k->round != f->attempt.key.round || k->attempt != f->attempt.key.attempt) return NULL;
    return weft_site_has(f->attempt.members & ~f->lost, m) ? f : NULL;
}

int hub_in_flight(const weft_hub_machine *h, uint32_t m) {
    for (uint32_t p = 0; p < h->run.nfragments; p++) {
        const weft_hub_fragment *f = &h->fragment[p];
        if (weft_site_has(f->ready, m)) return 1;
        if (f->phase != WEFT_ROUND_IDLE && weft_site_has(f->attempt.members & ~f->lost, m)) return 1;
    }
    return 0;
}

/* --- what members say --- */

static float median_norm(const weft_hub_norms *n) {
    float v[WEFT_HUB_NORMS];
    uint32_t k = n->n < WEFT_HUB_NORMS ? n->n : WEFT_HUB_NORMS;
    memcpy(v, n->last, sizeof v);
    for (uint32_t i = 1; i < k; i++)
        for (uint32_t j = i; j > 0 && v[j - 1] > v[j]; j--) {
            float t = v[j];
            v[j] = v[j - 1];
            v[j - 1] = t;
        }
    return k ? v[k / 2] : 0;
}

static int is_unfit(const weft_hub_norms *n, const weft_site_ready *r) {
    if (r->nonfinite || !isfinite(r->norm) || !isfinite(r->loss) || !r->tokens) return 1;
    return n->n >= NORMS_ENOUGH && r->norm > FAR_OUT * median_norm(n);
}

void hub_ready(weft_hub_machine *h, uint32_t m, const weft_site_ready *r) {
    if (r->key.fragment >= h->run.nfragments) return;
    weft_hub_fragment *f = &h->fragment[r->key.fragment];
    if (r->key.round != f->version + 1 || weft_site_has(f->ready, m)) return;
    f->info[m] = *r;
    f->ready |= weft_site_bit(m);
    f->regular |= weft_site_bit(m);
    if (is_unfit(&f->norms[m], r)) f->unfit |= weft_site_bit(m);
}

void hub_have(weft_hub_machine *h, uint32_t m, const weft_site_have *r) {
    weft_hub_fragment *f = in_attempt(h, m, &r->key);
    if (f) f->have[m] |= r->from & f->attempt.members;
}

void hub_reduced(weft_hub_machine *h, uint32_t m, const weft_site_result *r) {
    weft_hub_fragment *f = in_attempt(h, m, &r->key);
    if (!f || f->phase != WEFT_ROUND_SEALED || !weft_site_has(f->owners, m) || weft_site_has(f->reduced, m))
        return;
    f->reduced |= weft_site_bit(m);
    f->part_root[m] = r->root;
}

void hub_prepared(weft_hub_machine *h, uint32_t m, const weft_site_result *r) {
    weft_hub_fragment *f = in_attempt(h, m, &r->key);
    if (!f || !f->root_known || memcmp(&r->root, &f->root, sizeof f->root) != 0) return;
    f->prepared |= weft_site_bit(m);
}

/* --- ends of attempts --- */

static void abort_attempt(weft_hub_machine *h, weft_hub_fragment *f, uint8_t reason) {
    weft_site_key key = f->attempt.key;
    hub_message(h, WEFT_SITE_ABORT)->u.abort = (weft_site_abort){key, reason};
    hub_append(h);
}

/* The member of `who` with the largest score; ties to the highest number. */
static uint32_t worst(weft_site_set who, const uint32_t score[WEFT_SITE_MEMBERS]) {
    uint32_t best = weft_site_first(who);
    for (uint32_t m = best; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(who, m) && score[m] >= score[best]) best = m;
    return best;
}

/* Nobody is complete: the member that misses, and is missed by, most others goes. */
static void fence_cut_off(weft_hub_machine *h, const weft_hub_fragment *f, weft_site_set here,
                          weft_site_set havers) {
    uint32_t score[WEFT_SITE_MEMBERS] = {0};
    uint32_t sum = 0;
    for (uint32_t o = 0; o < WEFT_SITE_MEMBERS; o++)
        for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
            if (weft_site_has(havers & here, o) && weft_site_has(f->ready & here, m) &&
                !weft_site_has(f->have[o], m))
                score[o]++, score[m]++, sum++;
    if (sum && weft_site_count(here) > 1)
        hub_end_member(h, worst(here, score), WEFT_MEMBER_FENCED, WEFT_WHY_CUT);
}

static void fence_all(weft_hub_machine *h, weft_site_set who) {
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(who, m)) hub_end_member(h, m, WEFT_MEMBER_FENCED, WEFT_WHY_STUCK);
}

/* Sealed, and not finished in time. */
static void end_stuck(weft_hub_machine *h, weft_hub_fragment *f, weft_site_set here) {
    weft_site_set done = f->prepared & here, behind = here & ~done;
    f->sealed_ns = h->now_ns;
    if (weft_site_count(here) < 2)
        abort_attempt(h, f, WEFT_WHY_STUCK);
    else if (!f->root_known)
        fence_all(h, f->owners & here & ~f->reduced);
    else if (!done)
        hub_end_member(
            h, worst(here & f->owners ? here & f->owners : here, (const uint32_t[WEFT_SITE_MEMBERS]){0}),
            WEFT_MEMBER_FENCED, WEFT_WHY_STUCK);
    else
        fence_all(h, 2 * weft_site_count(done) >= weft_site_count(here) ? behind : done);
}

/* --- IDLE -> OPEN --- */

static void send_open(weft_hub_machine *h, const weft_hub_fragment *f, weft_site_set to) {
    const weft_site_commit *a = &f->attempt;
    weft_site_open *o = &hub_message(h, WEFT_SITE_OPEN)->u.open;
    *o = (weft_site_open){.key = a->key, .epoch = a->epoch, .members = a->members, .gather = a->gather};
    memcpy(o->shares, a->shares, sizeof o->shares);
    hub_send(h, to);
}

static void open_attempt(weft_hub_machine *h, uint32_t p) {
    weft_hub_fragment *f = &h->fragment[p];
    weft_site_set who = weft_hub_active(h) & h->epoch.active;
    who &= ~(hub_in_state(h, WEFT_MEMBER_DRAINING) & ~f->ready);
    if (!(f->ready & who) || (uint32_t)weft_site_count(weft_hub_active(h)) < h->run.min_sites) return;
    if (h->epoch_due || !hub_on_disk(h, h->epoch_seq) || !hub_on_disk(h, f->after)) return;
    uint32_t bound[WEFT_SITE_MEMBERS + 1];
    weft_site_commit *a = &f->attempt;
    memset(a, 0, sizeof *a);
    a->key = (weft_site_key){p, f->version + 1, f->next_attempt++};
    a->epoch = h->epoch.epoch;
    a->members = who;
    a->gather = (uint8_t)weft_parts_gather(weft_site_count(who), h->run.bits_up, h->run.bits_down);
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(who, m)) a->shares[m] = h->epoch.shares[m];
    weft_parts_cut(who, a->shares, weft_hub_chunks(h, p), bound);
    f->owners = weft_parts_owners(bound);
    f->lost = f->reduced = f->prepared = 0;
    memset(f->have, 0, sizeof f->have);
    f->root_known = 0;
    f->phase = WEFT_ROUND_OPEN;
    f->opened_ns = h->now_ns;
    f->quorum_ns = 0;
    send_open(h, f, who);
}

/* --- OPEN -> SEALED --- */

static double weigh(const weft_hub_machine *h, uint32_t m, const weft_site_ready *r) {
    double tokens = (double)r->tokens;
    switch (h->run.weight) {
    case WEFT_WEIGHT_TOKENS2: return tokens * tokens / (double)(r->steps ? r->steps : 1);
    case WEFT_WEIGHT_SHARE: return h->member[m].pi * (r->planned ? fmin(1, tokens / (double)r->planned) : 1);
    default: return tokens;
    }
}

/* Fills in who is in, with which weights: normalised here, once, and logged as the floats that everybody uses. */
static void weights(const weft_hub_machine *h, const weft_hub_fragment *f, weft_site_set in,
                    weft_site_commit *c) {
    double w[WEFT_SITE_MEMBERS] = {0}, sum = 0;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(in, m)) sum += w[m] = weigh(h, m, &f->info[m]);
    if (!(sum > 0)) in = 0; /* shares of nothing */
    c->in = in;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(in, m)) {
            c->weight[m] = (float)(w[m] / sum);
            c->tokens[m] = f->info[m].tokens;
            c->steps[m] = f->info[m].steps;
            c->bytes[m] = f->info[m].bytes;
            c->loss[m] = f->info[m].loss;
        }
}

/* gather: the result's root follows from the contributions'. */
static void root_of_gather(weft_hub_machine *h, weft_hub_fragment *f) {
    weft_site_hash all[WEFT_SITE_MEMBERS];
    uint32_t n = 0;
    memset(&f->root, 0, sizeof f->root);
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(f->attempt.in, m)) all[n++] = f->info[m].root;
    if (n) h->opts.digest(all, n * sizeof *all, &f->root);
}

static void seal(weft_hub_machine *h, weft_hub_fragment *f, weft_site_set in) {
    weft_site_commit *c = &hub_message(h, WEFT_SITE_SEAL)->u.commit;
    *c = f->attempt;
    c->excluded = f->ready & f->unfit & present(h, f);
    weights(h, f, in, c);
    hub_append(h);
    f->sealed_ns = h->now_ns;
    if (f->attempt.gather || !f->attempt.in) root_of_gather(h, f);
}

/* How long a quorum waits for the others: what they would wait for anyway, until the result is merged. */
static uint64_t grace_ns(const weft_hub_machine *h) {
    double step = 0;
    for (uint32_t m = 0; m < h->nmembers; m++)
        if (weft_site_has(h->epoch.active, m) && h->member[m].steps_per_s > 0)
            step = fmax(step, 1 / h->member[m].steps_per_s);
    double grace = 0.8 * (h->run.tau * step - h->xi_quorum - h->xi_sync);
    grace = fmin(fmax(grace, 0), h->run.grace_cap_ms * 1e-3);
    return (uint64_t)(grace * 1e9);
}

static int quorum_is_over(weft_hub_machine *h, weft_hub_fragment *f, weft_site_set fit, weft_site_set here) {
    if (!h->run.quorum) return 0;
    uint32_t need = h->run.quorum, most = (uint32_t)weft_site_count(here);
    if ((uint32_t)weft_site_count(fit) < (need < most ? need : most)) return 0;
    if (!f->quorum_ns) {
        f->quorum_ns = h->now_ns;
        h->xi_quorum += 0.2 * (1e-9 * (double)(f->quorum_ns - f->opened_ns) - h->xi_quorum);
    }
    return h->now_ns - f->quorum_ns >= grace_ns(h);
}

static void settle_open(weft_hub_machine *h, weft_hub_fragment *f) {
    weft_site_set here = present(h, f), havers = f->attempt.gather ? here : f->owners;
    if (!here || (!f->attempt.gather && f->owners & ~here)) {
        abort_attempt(h, f, WEFT_WHY_OWNER);
        return;
    }
    weft_site_set had = f->ready & here, draining = hub_in_state(h, WEFT_MEMBER_DRAINING);
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(havers, m)) had &= f->have[m];
    weft_site_set fit = had & ~f->unfit;
    weft_site_set awaited = ((f->regular & here & ~draining) | (f->ready & here)) & ~f->unfit;
    uint64_t age = h->now_ns - f->opened_ns, deadline = weft_hub_deadline_ns(h);
    if (!(f->ready & here)) { /* who was ready is gone */
        if (age >= deadline) abort_attempt(h, f, WEFT_WHY_OWNER);
    } else if (!(awaited & ~had) || quorum_is_over(h, f, fit, here) || (fit && age >= deadline))
        seal(h, f, fit);
    else if (!fit && age >= 2 * deadline) {
        fence_cut_off(h, f, here, havers);
        f->opened_ns = h->now_ns;
    }
}

/* --- SEALED -> COMMIT --- */

static void send_root(weft_hub_machine *h, const weft_hub_fragment *f, weft_site_set to) {
    hub_message(h, WEFT_SITE_ROOT)->u.result = (weft_site_result){f->attempt.key, f->root};
    hub_send(h, to);
}

static void make_root(weft_hub_machine *h, weft_hub_fragment *f, weft_site_set here) {
    if (!f->attempt.gather && f->attempt.in) {
        weft_site_hash all[WEFT_SITE_MEMBERS];
        uint32_t n = 0;
        if (f->owners & ~f->reduced) return;
        for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
            if (weft_site_has(f->owners, m)) all[n++] = f->part_root[m];
        h->opts.digest(all, n * sizeof *all, &f->root);
    }
    f->root_known = 1;
    send_root(h, f, here);
}

/* Would other shares have made this round clearly faster, time after time? */
static void watch_shares(weft_hub_machine *h) {
    weft_parts_site site[WEFT_SITE_MEMBERS];
    double now[WEFT_SITE_MEMBERS], best[WEFT_SITE_MEMBERS];
    int n = hub_rates(h, h->epoch.active, site), k = 0;
    if (n < 2) return;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(h->epoch.active, m)) now[k++] = (double)h->epoch.shares[m] / WEFT_PARTS_ONE;
    double up = h->run.bits_up, down = h->run.bits_down;
    weft_parts_solve(n, site, up, down, best);
    int slow = weft_parts_time(n, site, up, down, now) > SHIFT * weft_parts_time(n, site, up, down, best);
    h->shifted = slow ? h->shifted + 1 : 0;
    if (h->shifted >= SHIFTS) h->epoch_due = WEFT_WHY_RATES;
}

static void commit(weft_hub_machine *h, weft_hub_fragment *f) {
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(f->attempt.in & f->ready, m)) {
            weft_hub_norms *n = &f->norms[m];
            n->last[n->n++ % WEFT_HUB_NORMS] = (float)f->info[m].norm;
        }
    f->regular |= present(h, f);
    h->durations[h->ndurations++ % WEFT_HUB_DURATIONS] = h->now_ns - f->opened_ns;
    h->xi_sync += 0.2 * (1e-9 * (double)(h->now_ns - f->sealed_ns) - h->xi_sync);
    weft_site_commit *c = &hub_message(h, WEFT_SITE_COMMIT)->u.commit;
    *c = f->attempt;
    c->eta = h->epoch.eta;
    c->root = f->root;
    hub_append(h);
    if (!f->attempt.gather) watch_shares(h);
}

/* Prepared are all that are here; with a quorum, enough of them: the others replay. */
static int may_commit(const weft_hub_machine *h, const weft_hub_fragment *f, weft_site_set here) {
    if (!here || !f->root_known) return 0;
    uint32_t all = (uint32_t)weft_site_count(here), done = (uint32_t)weft_site_count(f->prepared & here);
    uint32_t need = h->run.quorum > 2 ? h->run.quorum : 2;
    return done == all || (h->run.quorum && done >= need);
}

static void settle_sealed(weft_hub_machine *h, weft_hub_fragment *f) {
    weft_site_set here = present(h, f);
    if (!hub_on_disk(h, f->after)) return;
    /* An owner that is gone took its part with it, unless somebody has the whole result already. */
    int torn = !f->attempt.gather && f->attempt.in && f->owners & ~here;
    if (!here || (torn && !(f->prepared & here))) {
        abort_attempt(h, f, WEFT_WHY_OWNER);
        return;
    }
    if (!f->root_known) make_root(h, f, here);
    if (may_commit(h, f, here))
        commit(h, f);
    else if (h->now_ns - f->sealed_ns >= weft_hub_deadline_ns(h))
        end_stuck(h, f, here);
}

static void settle_committing(weft_hub_machine *h, uint32_t p) {
    weft_hub_fragment *f = &h->fragment[p];
    if (!hub_on_disk(h, f->after)) return;
    f->phase = WEFT_ROUND_IDLE;
    weft_site_set who = weft_hub_active(h);
    if (h->run.audit_every && f->version % h->run.audit_every == 0 && weft_site_count(who) > 1)
        hub_audit_ask(h, p, who, 1);
}

void hub_settle_round(weft_hub_machine *h, uint32_t p) {
    weft_hub_fragment *f = &h->fragment[p];
    if (f->phase == WEFT_ROUND_COMMITTING) settle_committing(h, p);
    if (f->phase == WEFT_ROUND_IDLE) open_attempt(h, p);
    if (f->phase == WEFT_ROUND_OPEN) settle_open(h, f);
    if (f->phase == WEFT_ROUND_SEALED) settle_sealed(h, f);
}

void hub_greet_rounds(weft_hub_machine *h, uint32_t m) {
    for (uint32_t p = 0; p < h->run.nfragments; p++) {
        const weft_hub_fragment *f = &h->fragment[p];
        if (f->phase != WEFT_ROUND_OPEN && f->phase != WEFT_ROUND_SEALED) continue;
        if (!weft_site_has(present(h, f), m)) continue;
        send_open(h, f, weft_site_bit(m));
        if (f->phase == WEFT_ROUND_SEALED && f->root_known) send_root(h, f, weft_site_bit(m));
    }
}
