/* A site's place in a run of several: what the training calls. See site.h; the thread is sites_thread.c. */
#include "runtime/sites/sites.h"

#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/sites/invite.h"
#include "runtime/sites/sites_internal.h"

#define WAKE_NS  200000000 /* a wait looks around this often, whatever wakes it */
#define SAY_S    5.0
#define RETAIN   4
#define GRACE_MS 10000
#define BETA     0.95f /* of the error feedback */

/* --- open and close --------------------------------------------------------------------------------------------------- */

static void layout_print(const weft_sites *s, weft_site_hash *out) {
    const weft_sites_rules *r = &s->o.rules;
    char text[96];
    uint8_t both[sizeof s->fragments.print + sizeof text];
    memset(text, 0, sizeof text);
    snprintf(text, sizeof text, "preset %d up %d down %d chunk %u momentum %a", (int)r->preset, (int)r->up,
             (int)r->down, r->chunk, (double)r->mu);
    memcpy(both, s->fragments.print, sizeof s->fragments.print);
    memcpy(both + sizeof s->fragments.print, text, sizeof text);
    EVP_Digest(both, sizeof both, out->b, NULL, EVP_sha256(), NULL);
}

static uint32_t bits(weft_codec c) {
    return (uint32_t)(weft_coder_bytes(c, 1u << 20) * 8000 >> 20);
}

static void describe(const weft_sites *s, weft_site_run *run) {
    const weft_sites_rules *r = &s->o.rules;
    memset(run, 0, sizeof *run);
    snprintf(run->name, sizeof run->name, "%s", s->identity ? weft_wan_identity_run(s->identity) : "lab");
    layout_print(s, &run->layout_fp);
    run->weight = WEFT_WEIGHT_TOKENS;
    run->preset = (uint8_t)r->preset;
    run->codec_up = (uint8_t)r->up;
    run->codec_down = (uint8_t)r->down;
    run->bits_up = bits(r->up);
    run->bits_down = bits(r->down);
    run->h = r->every;
    run->tau = r->preset == WEFT_PRESET_SYNC ? 0 : 1;
    run->quorum = r->quorum;
    run->min_sites = r->min_sites;
    run->audit_every = r->audit_every;
    run->retain = RETAIN;
    run->grace_cap_ms = GRACE_MS;
    run->chunk = r->chunk;
    run->mu = r->mu;
    run->eta = r->eta;
    run->nfragments = (uint32_t)s->fragments.n;
    for (int p = 0; p < s->fragments.n; p++) run->elements[p] = s->fragments.item[p].elements;
}

static weft_status visit(void *arg, uint32_t fragment, const char *what, float *at, size_t n) {
    weft_sites *s = arg;
    weft_sites_array *a = &s->arrays[s->narrays++];
    snprintf(a->name, sizeof a->name, "sites/%s/%u", what, fragment);
    a->ptr = at;
    a->n = n;
    return WEFT_OK;
}

static weft_status open_memory(weft_sites *s) {
    const weft_backend_opts bo = {.size = sizeof bo};
    const weft_exec_opts xo = {.size = sizeof xo, .threads = 1};
    size_t elements[WEFT_FRAGMENTS_MOST];
    WEFT_TRY(weft_backend_open(s->o.device, &bo, &s->backend));
    WEFT_TRY(weft_exec_create(s->backend, &xo, &s->exec));
    s->coder = (weft_coder){weft_backend_ops(s->backend), s->exec};
    for (int p = 0; p < s->fragments.n; p++) elements[p] = s->fragments.item[p].elements;
    const weft_vault_opts vo = {.size = sizeof vo,
                                .fragments = (uint32_t)s->fragments.n,
                                .elements = elements,
                                .chunk = s->o.rules.chunk,
                                .feedback = s->o.rules.up == WEFT_CODEC_TOPK2,
                                .coder = &s->coder};
    WEFT_TRY(weft_vault_create(&vo, &s->vault));
    s->f = weft_calloc((size_t)s->fragments.n, sizeof *s->f);
    s->exchange = weft_calloc((size_t)s->fragments.n, sizeof(weft_exchange *));
    s->delta = weft_calloc(s->fragments.largest, sizeof *s->delta);
    s->chunk = weft_calloc(s->o.rules.chunk, sizeof *s->chunk);
    s->arrays = weft_calloc(3 * (size_t)s->fragments.n, sizeof *s->arrays);
    s->machine = weft_calloc(1, sizeof *s->machine);
    if (!s->f || !s->exchange || !s->delta || !s->chunk || !s->arrays || !s->machine) return WEFT_ERR_NOMEM;
    WEFT_TRY(weft_vault_visit(s->vault, visit, s));
    return site_pull_open(s);
}

static weft_status read_invite(weft_sites *s) {
    weft_invite i;
    if (!s->o.invite)
        return weft_fail(WEFT_ERR_CONFIG,
                         "a site needs an invitation: on the hub's machine, weft hub invite SITE > FILE; "
                         "then --invite FILE");
    weft_status r = weft_invite_read(s->o.invite, &i);
    if (r >= 0) {
        if (s->o.lab_name && strcmp(s->o.lab_name, i.site) != 0)
            r = weft_fail(WEFT_ERR_CONFIG, "it is for site %s, but this is to be site %s (--site)", i.site,
                          s->o.lab_name);
        snprintf(s->name, sizeof s->name, "%s", i.site);
        if (r >= 0) r = site_hub_find(s, s->o.hub ? s->o.hub : i.hub);
        if (r >= 0) r = weft_wan_identity_load(i.ca, i.certificate, i.key, &s->identity);
    }
    weft_invite_free(&i);
    return weft_context(r, "invitation %s", s->o.invite);
}

/* Who this site is: from its invitation, or, in the lab, as it says. */
static weft_status open_identity(weft_sites *s) {
    snprintf(s->hub_name, sizeof s->hub_name, "%s", WEFT_HUB_PEER);
    if (s->o.insecure_lab) {
        snprintf(s->name, sizeof s->name, "%s", s->o.lab_name ? s->o.lab_name : "");
        snprintf(s->lab_name, sizeof s->lab_name, "%s/%s", s->name, WEFT_MEMBER_ROLE);
        return s->o.hub ? site_hub_find(s, s->o.hub)
                        : weft_fail(WEFT_ERR_CONFIG, "in the lab the hub's address must be given");
    }
    return read_invite(s);
}

weft_status weft_sites_open(const weft_sites_opts *o, weft_sites **out) {
    pthread_mutexattr_t recursive;
    *out = NULL;
    weft_sites *s = weft_calloc(1, sizeof *s);
    if (!s) return WEFT_ERR_NOMEM;
    s->o = *o;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&s->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    pthread_cond_init(&s->changed, NULL);
    weft_status r = weft_fragments_make(&o->model, o->rules.preset != WEFT_PRESET_SYNC, &s->fragments);
    if (r >= 0) r = open_identity(s);
    if (r >= 0) r = open_memory(s);
    if (r < 0) {
        weft_sites_close(s);
        return r;
    }
    *out = s;
    return WEFT_OK;
}

void weft_sites_close(weft_sites *s) {
    if (!s) return;
    atomic_store(&s->ending, 1);
    if (s->started) {
        weft_wan_wake(s->wan);
        pthread_join(s->thread, NULL);
    }
    if (s->wan) weft_wan_close(s->wan);
    site_pull_close(s);
    for (int p = 0; s->exchange && p < s->fragments.n; p++) weft_exchange_destroy(s->exchange[p]);
    weft_vault_destroy(s->vault);
    weft_wan_identity_free(s->identity);
    if (s->exec) weft_exec_destroy(s->exec);
    if (s->backend) weft_backend_close(s->backend);
    weft_fragments_free(&s->fragments);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->f);
    free(s->exchange);
    free(s->delta);
    free(s->chunk);
    free(s->arrays);
    free(s->machine);
    free(s);
}

const weft_fragments *weft_sites_fragments(const weft_sites *s) {
    return &s->fragments;
}

size_t weft_sites_memory(const weft_sites *s) {
    return weft_vault_memory(s->vault) + (s->fragments.largest + s->o.rules.chunk) * sizeof(float) +
           sizeof *s->machine;
}

/* --- joining ---------------------------------------------------------------------------------------------------------- */

void weft_sites_begin(weft_sites *s, int p, const float *vector) {
    const size_t bytes = s->fragments.item[p].elements * sizeof *vector;
    memcpy(weft_vault_theta(s->vault, (uint32_t)p), vector, bytes);
    memset(weft_vault_velocity(s->vault, (uint32_t)p), 0, bytes);
    weft_vault_start(s->vault, (uint32_t)p, 0);
}

const float *weft_sites_weights(const weft_sites *s, int p) {
    return weft_vault_theta(s->vault, (uint32_t)p);
}

int weft_sites_restored(const weft_sites *s) {
    return s->restored;
}

int weft_sites_moved(const weft_sites *s, int p) {
    return !s->restored || s->f[p].moved;
}

uint64_t weft_sites_version(const weft_sites *s, int p) {
    return weft_vault_fragment_version(s->vault, (uint32_t)p);
}

/* Waits for a change, or a moment. The lock is held. */
static void wait_a_little(weft_sites *s) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += WAKE_NS;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&s->changed, &s->lock, &t);
}

static void in_words(const weft_sites *s, char *text, size_t n) {
    int fetching = 0;
    const weft_member_machine *m = s->machine;
    for (int p = 0; p < s->fragments.n; p++) fetching += s->f[p].fetching;
    if (!s->hub || !weft_wan_peer_up(s->hub))
        snprintf(text, n, "waiting for the hub at %s", s->hub_address);
    else if (fetching)
        snprintf(text, n, "catching up: %d of %d fragments to go", fetching, s->fragments.n);
    else
        snprintf(text, n, "the hub knows this site as %s", weft_site_state_name(m->state));
}

static weft_status start(weft_sites *s) {
    weft_member_opts mo;
    uint64_t versions[WEFT_FRAGMENTS_MOST];
    memset(&mo, 0, sizeof mo);
    snprintf(mo.site, sizeof mo.site, "%s", s->name);
    describe(s, &mo.run);
    WEFT_TRY(site_connect(s));
    if (s->o.advertise)
        snprintf(mo.address, sizeof mo.address, "%s", s->o.advertise);
    else
        snprintf(mo.address, sizeof mo.address, ":%d", weft_wan_port(s->wan)); /* the hub sees the rest */
    for (int p = 0; p < s->fragments.n; p++) versions[p] = weft_vault_fragment_version(s->vault, (uint32_t)p);
    weft_member_init(s->machine, &mo, versions);
    WEFT_TRY(weft_wan_dial(s->wan, s->hub_address, s->hub_name, &s->hub));
    if (pthread_create(&s->thread, NULL, site_thread, s) != 0)
        return weft_fail(WEFT_ERR_NOMEM, "no thread for what concerns other sites");
    s->started = 1;
    return WEFT_OK;
}

static int stopped(const weft_sites *s) {
    return (s->o.stop && *s->o.stop) || (s->o.asked && s->o.asked(s->o.asked_arg));
}

weft_status weft_sites_join(weft_sites *s, int64_t timeout_ms, void (*say)(void *arg, const char *text),
                            void *arg) {
    const double began = weft_now();
    double next = began + SAY_S;
    WEFT_TRY(start(s));
    pthread_mutex_lock(&s->lock);
    while (!s->joined && s->lost >= 0 && !stopped(s) &&
           (timeout_ms < 0 || (weft_now() - began) * 1e3 < (double)timeout_ms)) {
        wait_a_little(s);
        if (say && weft_now() > next) {
            char text[256];
            in_words(s, text, sizeof text);
            say(arg, text);
            next = weft_now() + SAY_S;
        }
    }
    weft_status r = s->lost;
    if (r < 0)
        r = weft_fail(r, "%s", s->why);
    else if (!s->joined)
        r = stopped(s) ? weft_fail(WEFT_ERR_STATE, "stopped before this site had joined")
                       : weft_fail(WEFT_ERR_TIMEOUT, "this site could not join within %lld s",
                                   (long long)(timeout_ms / 1000));
    for (int p = 0; p < s->fragments.n; p++) s->f[p].replaced = 0; /* the caller takes them all now */
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* --- rounds ----------------------------------------------------------------------------------------------------------- */

int weft_sites_due(weft_sites *s, int64_t step, double seconds_a_step) {
    int due = -1;
    pthread_mutex_lock(&s->lock);
    const int64_t h = weft_member_h(s->machine), n = s->fragments.n;
    s->step = (uint64_t)step;
    s->progress++;
    s->steps_per_s = seconds_a_step > 0 ? 1 / seconds_a_step : 0;
    for (int p = 0; p < n && s->joined && due < 0; p++) {
        const site_fragment *f = &s->f[p];
        if ((step - p * h / n) % h || step < h) continue;
        if (!f->pending && !f->fetching && !f->replaced && weft_member_may_ready(s->machine, (uint32_t)p))
            due = p;
    }
    pthread_mutex_unlock(&s->lock);
    return due;
}

int weft_sites_may(weft_sites *s, int p) {
    pthread_mutex_lock(&s->lock);
    const site_fragment *f = &s->f[p];
    const int may = s->joined && !f->pending && !f->fetching && !f->replaced && !f->offered &&
                    weft_member_may_ready(s->machine, (uint32_t)p);
    pthread_mutex_unlock(&s->lock);
    return may;
}

int weft_sites_back(weft_sites *s, int p) {
    pthread_mutex_lock(&s->lock);
    const int back = !s->f[p].offered && !s->f[p].pending;
    pthread_mutex_unlock(&s->lock);
    return back;
}

static weft_status encode(weft_sites *s, int p, const float *vector, weft_site_ready *e) {
    const size_t n = s->fragments.item[p].elements;
    double sum = 0;
    WEFT_TRY(weft_vault_delta(s->vault, (uint32_t)p, vector, s->delta));
    WEFT_TRY(s->coder.ops->sumsq(s->exec, n, s->delta, &sum));
    if (s->o.rules.up == WEFT_CODEC_TOPK2) WEFT_TRY(weft_vault_gather(s->vault, (uint32_t)p, BETA, s->delta));
    if (weft_exchange_offered(s->exchange[p]))
        weft_exchange_withdraw(s->exchange[p]); /* of an attempt that is void */
    WEFT_TRY(weft_exchange_offer(s->exchange[p], s->delta, &e->nonfinite, &e->root));
    e->norm = sqrt(sum);
    e->bytes = weft_coder_bytes(s->o.rules.up, n);
    return WEFT_OK;
}

weft_status weft_sites_offer(weft_sites *s, int p, const float *vector, const weft_sites_work *w) {
    site_fragment *f = &s->f[p];
    pthread_mutex_lock(&s->lock);
    weft_status r = WEFT_OK;
    if (!weft_member_may_ready(s->machine, (uint32_t)p) || f->pending || f->tell_applied || f->fetching ||
        f->replaced) {
        f->carried.tokens += w->tokens; /* a round was committed since this was due */
        f->carried.steps += w->steps;
        pthread_mutex_unlock(&s->lock);
        return WEFT_DROPPED;
    }
    memset(&f->ready, 0, sizeof f->ready);
    f->ready.key.fragment = (uint32_t)p;
    f->ready.key.round = s->machine->fragment[p].version + 1;
    if (r >= 0) r = encode(s, p, vector, &f->ready);
    if (r >= 0) {
        f->work = *w;
        f->work.tokens += f->carried.tokens;
        f->work.steps += f->carried.steps;
        f->carried = (weft_sites_work){0};
        f->ready.tokens = f->ready.planned = f->work.tokens;
        f->ready.steps = f->work.steps;
        f->ready.loss = w->loss;
        f->offered = f->tell_ready = 1;
        f->offered_ns = weft_now_ns();
    }
    pthread_mutex_unlock(&s->lock);
    weft_wan_wake(s->wan);
    return r;
}

int weft_sites_must_wait(weft_sites *s) {
    pthread_mutex_lock(&s->lock);
    int wait = s->paused;
    for (int p = 0; p < s->fragments.n && s->o.rules.preset == WEFT_PRESET_SYNC; p++) wait |= s->f[p].offered;
    if (s->lost < 0) wait = 0;
    s->waiting = (uint8_t)wait;
    s->progress++;
    pthread_mutex_unlock(&s->lock);
    return wait;
}

void weft_sites_busy(weft_sites *s, int on) {
    pthread_mutex_lock(&s->lock);
    s->busy = (uint8_t)on;
    pthread_mutex_unlock(&s->lock);
}

int weft_sites_owes(weft_sites *s, int p) {
    pthread_mutex_lock(&s->lock);
    const int owes = s->f[p].carried.steps > 0;
    pthread_mutex_unlock(&s->lock);
    return owes;
}

weft_sites_what weft_sites_news(weft_sites *s, int *p) {
    weft_sites_what what = WEFT_SITES_NOTHING;
    *p = -1;
    pthread_mutex_lock(&s->lock);
    if (s->lost < 0) what = WEFT_SITES_LOST;
    for (int i = 0; i < s->fragments.n && what == WEFT_SITES_NOTHING; i++) {
        const site_fragment *f = &s->f[i];
        if (f->replaced && s->joined && !f->fetching)
            what = WEFT_SITES_REPLACE;
        else if (f->pending)
            what = f->how == WEFT_APPLY_MINE   ? WEFT_SITES_MERGE
                   : f->how == WEFT_APPLY_LATE ? WEFT_SITES_REBASE
                                               : WEFT_SITES_REPLACE;
        if (what != WEFT_SITES_NOTHING) *p = i;
    }
    pthread_mutex_unlock(&s->lock);
    return what;
}

/* The outer step on all chunks of a committed fragment. */
static weft_status outer_step(weft_sites *s, int p) {
    const site_fragment *f = &s->f[p];
    const weft_site_commit *c = &f->commit;
    const weft_chunks k = weft_vault_chunks(s->vault, (uint32_t)p);
    for (uint32_t i = 0; i < weft_chunks_count(k); i++) {
        const weft_status r = weft_exchange_result(s->exchange[p], c->key.round, i, s->chunk);
        if (r == WEFT_NO_CONTRIB) {
            weft_vault_start(s->vault, (uint32_t)p, c->key.round); /* the content stays */
            return WEFT_OK;
        }
        WEFT_TRY(r);
        WEFT_TRY(
            weft_vault_apply(s->vault, (uint32_t)p, i, c->key.round, s->chunk, c->eta, s->machine->run.mu));
    }
    return WEFT_OK;
}

weft_status weft_sites_merge(weft_sites *s, int p, float *vector) {
    site_fragment *f = &s->f[p];
    const size_t n = s->fragments.item[p].elements;
    weft_status r = WEFT_OK;
    pthread_mutex_lock(&s->lock);
    const float *theta = weft_vault_theta(s->vault, (uint32_t)p);
    const int rebase = f->pending && f->how == WEFT_APPLY_LATE && !f->replaced;
    if (rebase) memcpy(vector, theta, n * sizeof *vector);
    if (f->pending) r = outer_step(s, p);
    for (size_t i = 0; i < n && rebase; i++) vector[i] = theta[i] - vector[i];
    if (!rebase) memcpy(vector, theta, n * sizeof *vector);
    if (rebase && f->offered) {
        f->carried.tokens += f->work.tokens;
        f->carried.steps += f->work.steps;
    }
    if (f->pending) f->tell_applied = 1;
    f->pending = f->offered = f->replaced = 0;
    pthread_mutex_unlock(&s->lock);
    weft_wan_wake(s->wan);
    return r;
}

weft_status weft_sites_error(weft_sites *s) {
    pthread_mutex_lock(&s->lock);
    const weft_status r = s->lost < 0 ? weft_fail(s->lost, "%s", s->why) : WEFT_OK;
    pthread_mutex_unlock(&s->lock);
    return r;
}

weft_status weft_sites_leave(weft_sites *s, int64_t timeout_ms) {
    const double began = weft_now();
    pthread_mutex_lock(&s->lock);
    s->drain = 1;
    weft_wan_wake(s->wan);
    while (!s->left && s->lost >= 0 && (weft_now() - began) * 1e3 < (double)timeout_ms) wait_a_little(s);
    const weft_status r =
        s->left ? WEFT_OK : weft_fail(WEFT_ERR_TIMEOUT, "the hub did not let this site go in time");
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* --- checkpoints ------------------------------------------------------------------------------------------------------ */

void weft_sites_hold(weft_sites *s, int on) {
    pthread_mutex_lock(&s->lock);
    s->hold = (uint8_t)on;
    pthread_mutex_unlock(&s->lock);
}

const weft_sites_array *weft_sites_arrays(weft_sites *s, size_t *n) {
    *n = s->narrays;
    return s->arrays;
}

char *weft_sites_state(weft_sites *s) {
    json_t *versions = json_array();
    pthread_mutex_lock(&s->lock);
    for (int p = 0; p < s->fragments.n; p++) {
        const uint64_t v = weft_vault_fragment_version(s->vault, (uint32_t)p);
        json_array_append_new(versions, json_integer(v == WEFT_VAULT_UNKNOWN ? -1 : (json_int_t)v));
    }
    pthread_mutex_unlock(&s->lock);
    json_t *j = json_pack("{s:i, s:o}", "version", 1, "versions", versions);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

weft_status weft_sites_restore(weft_sites *s, const char *state) {
    json_error_t e;
    json_t *j = json_loads(state, JSON_REJECT_DUPLICATES, &e), *versions = NULL;
    int version = 0, whole = 1;
    weft_status r = WEFT_OK;
    if (!j || json_unpack_ex(j, &e, 0, "{s:i, s:o}", "version", &version, "versions", &versions) ||
        version != 1 || json_array_size(versions) != (size_t)s->fragments.n)
        r = weft_fail(WEFT_ERR_FORMAT, "the checkpoint's state of the sites cannot be read: %s",
                      j ? e.text : "not JSON");
    for (int p = 0; r >= 0 && p < s->fragments.n; p++) {
        const json_int_t v = json_integer_value(json_array_get(versions, (size_t)p));
        whole &= v >= 0; /* else it was saved while it caught up: it begins anew */
        if (v >= 0) weft_vault_start(s->vault, (uint32_t)p, (uint64_t)v);
    }
    if (r >= 0) s->restored = (uint8_t)whole;
    json_decref(j);
    return r;
}

void weft_sites_look(weft_sites *s, weft_sites_info *i) {
    pthread_mutex_lock(&s->lock);
    *i = s->info;
    snprintf(i->phase, sizeof i->phase, "%s", weft_site_state_name(s->machine->state));
    i->hub = s->hub && weft_wan_peer_up(s->hub);
    i->epoch = s->machine->epoch.epoch;
    i->sites = weft_site_count(s->machine->epoch.active);
    pthread_mutex_unlock(&s->lock);
}

void weft_sites_accounts(weft_sites *s, weft_ledger *l) {
    pthread_mutex_lock(&s->lock);
    *l = s->ledger;
    pthread_mutex_unlock(&s->lock);
}
