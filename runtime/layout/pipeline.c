/* Pipeline schedules; see pipeline.h. */
#include "runtime/layout/pipeline.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define LINK_BUFFERS 2 /* messages that a sender may be ahead of the receiver */

/* --- the order of a stage --------------------------------------------------------------------------------- */

static int64_t round_up(int64_t n, int64_t a) {
    return (n + a - 1) / a * a;
}

/* Pass k of one direction, counted over all micro-batches and chunks of a stage, those left out included. */
static weft_pipeline_action pass(const weft_pipeline *p, int64_t k, int backward) {
    const int64_t group = (int64_t)p->stages * p->chunks;
    weft_pipeline_action a = {.backward = (int16_t)backward};
    if (p->chunks == 1) {
        a.micro = (int32_t)k;
        return a;
    }
    const int chunk = (int)(k % group / p->stages);
    a.chunk = (int16_t)(backward ? p->chunks - 1 - chunk : chunk);
    a.micro = (int32_t)(k / group * p->stages + k % p->stages);
    return a;
}

static void add(weft_pipeline *p, weft_pipeline_action a) {
    if (a.micro < p->micros) p->action[p->n++] = a;
}

/* Forward passes before the first backward one. */
static int64_t warm_up(const weft_pipeline *p, int64_t passes) {
    const int64_t behind = p->stages - 1 - p->stage;
    const int64_t n = p->chunks == 1 ? behind : 2 * behind + (int64_t)(p->chunks - 1) * p->stages;
    return n < passes ? n : passes;
}

static void fill(weft_pipeline *p, int training) {
    const int64_t passes = p->chunks == 1 ? p->micros : round_up(p->micros, p->stages) * p->chunks;
    const int64_t first = training ? warm_up(p, passes) : passes;
    for (int64_t k = 0; k < first; k++) add(p, pass(p, k, 0));
    for (int64_t k = first; k < passes; k++) {
        add(p, pass(p, k, 0));
        add(p, pass(p, k - first, 1));
    }
    for (int64_t k = passes - first; training && k < passes; k++) add(p, pass(p, k, 1));
}

static void count_slots(weft_pipeline *p, int training) {
    int flying[WEFT_CHUNKS_MOST] = {0};
    for (int c = 0; c < p->chunks; c++) p->slots[c] = 1;
    for (size_t i = 0; training && i < p->n; i++) {
        const weft_pipeline_action *a = &p->action[i];
        flying[a->chunk] += a->backward ? -1 : 1;
        if (flying[a->chunk] > p->slots[a->chunk]) p->slots[a->chunk] = flying[a->chunk];
    }
}

weft_status weft_pipeline_create(int stages, int stage, int chunks, int64_t micros, int training,
                                 weft_pipeline *p) {
    memset(p, 0, sizeof *p);
    if (stages < 1 || stages > WEFT_STAGES_MOST || stage < 0 || stage >= stages)
        return weft_fail(WEFT_ERR_CONFIG, "a pipeline of %d stages; 1 to %d are possible", stages,
                         WEFT_STAGES_MOST);
    if (chunks < 1 || chunks > WEFT_CHUNKS_MOST)
        return weft_fail(WEFT_ERR_CONFIG, "%d chunks a pipeline stage; 1 to %d are possible", chunks,
                         WEFT_CHUNKS_MOST);
    if (micros < 1 || micros > INT32_MAX - WEFT_STAGES_MOST)
        return weft_fail(WEFT_ERR_CONFIG, "a pipeline of %lld micro-batches", (long long)micros);
    *p = (weft_pipeline){.stages = stages, .stage = stage, .chunks = chunks, .micros = micros};
    p->action = weft_calloc((size_t)micros * (size_t)chunks * (training ? 2 : 1), sizeof *p->action);
    if (!p->action) return WEFT_ERR_NOMEM;
    fill(p, training);
    count_slots(p, training);
    return WEFT_OK;
}

void weft_pipeline_destroy(weft_pipeline *p) {
    free(p->action);
    memset(p, 0, sizeof *p);
}

/* --- playing it ------------------------------------------------------------------------------------------- */

/* What travels between virtual stages: message i of a link is micro-batch i. */
typedef struct link {
    int64_t sent, taken;
    double *sent_at, *taken_at; /* [micros] */
} link;

typedef struct player {
    int stages, chunks;
    int64_t micros;
    const weft_pipeline_times *t;
    weft_pipeline *stage; /* [stages] */
    size_t *at;           /* [stages]: the next action */
    double *now, *busy;   /* [stages] */
    link **owed;          /* [stages]: where the output of the last pass goes; NULL: it is sent */
    link *in[2];          /* by direction, [stages * chunks]: into a virtual stage */
    double *memory;
} player;

static void player_free(player *g) {
    for (int s = 0; g->stage && s < g->stages; s++) weft_pipeline_destroy(&g->stage[s]);
    free(g->stage);
    free(g->at);
    free(g->now);
    free(g->owed);
    free(g->in[0]);
    free(g->memory);
}

static weft_status player_make(player *g) {
    const size_t p = (size_t)g->stages, parts = p * (size_t)g->chunks, m = (size_t)g->micros;
    g->stage = weft_calloc(p, sizeof *g->stage);
    g->at = weft_calloc(p, sizeof *g->at);
    g->now = weft_calloc(2 * p, sizeof *g->now);
    g->owed = weft_calloc(p, sizeof *g->owed);
    g->in[0] = weft_calloc(2 * parts, sizeof *g->in[0]);
    g->memory = weft_calloc(4 * parts * m, sizeof *g->memory);
    if (!g->stage || !g->at || !g->now || !g->owed || !g->in[0] || !g->memory) return WEFT_ERR_NOMEM;
    g->busy = g->now + p;
    g->in[1] = g->in[0] + parts;
    for (size_t k = 0; k < 2 * parts; k++) {
        g->in[0][k].sent_at = g->memory + 2 * k * m;
        g->in[0][k].taken_at = g->in[0][k].sent_at + m;
    }
    for (int s = 0; s < g->stages; s++)
        WEFT_TRY(weft_pipeline_create(g->stages, s, g->chunks, g->micros, 1, &g->stage[s]));
    return WEFT_OK;
}

static double later(double a, double b) {
    return a > b ? a : b;
}

/* Sends what stage s owes. 0: both buffers of the link are full. */
static int deliver(player *g, int s) {
    link *l = g->owed[s];
    if (!l) return 1;
    if (l->sent >= l->taken + LINK_BUFFERS) return 0;
    if (l->sent >= LINK_BUFFERS) g->now[s] = later(g->now[s], l->taken_at[l->sent - LINK_BUFFERS]);
    l->sent_at[l->sent++] = g->now[s];
    g->owed[s] = NULL;
    return 1;
}

/* The next action of stage s. 0: it has none, or its input is not there. */
static int act(player *g, int s) {
    if (!deliver(g, s) || g->at[s] == g->stage[s].n) return 0;
    const weft_pipeline_action *a = &g->stage[s].action[g->at[s]];
    const int k = a->chunk * g->stages + s, last = g->stages * g->chunks - 1;
    const int to = a->backward ? k - 1 : k + 1;
    if (a->backward ? k < last : k > 0) {
        link *l = &g->in[a->backward][k];
        if (l->sent == l->taken) return 0;
        g->now[s] = later(g->now[s], l->sent_at[l->taken]);
        l->taken_at[l->taken++] = g->now[s];
    }
    const double time = a->backward ? g->t->backward[k] : g->t->forward[k];
    g->now[s] += time;
    g->busy[s] += time;
    if (to >= 0 && to <= last) g->owed[s] = &g->in[a->backward][to];
    g->at[s]++;
    (void)deliver(g, s);
    return 1;
}

static weft_status play(player *g, double *seconds, double *busy) {
    for (int moved = 1; moved;) {
        moved = 0;
        for (int s = 0; s < g->stages; s++)
            while (act(g, s)) moved = 1;
    }
    *seconds = 0;
    if (busy) *busy = 0;
    for (int s = 0; s < g->stages; s++) {
        if (g->at[s] < g->stage[s].n || g->owed[s])
            return weft_fail(WEFT_ERR_INTERNAL, "pipeline stage %d of %d stands still at pass %zu of %zu", s,
                             g->stages, g->at[s], g->stage[s].n);
        *seconds = later(*seconds, g->now[s]);
        if (busy) *busy = later(*busy, g->busy[s]);
    }
    return WEFT_OK;
}

weft_status weft_pipeline_play(int stages, int chunks, int64_t micros, const weft_pipeline_times *t,
                               double *seconds, double *busy) {
    player g = {.stages = stages, .chunks = chunks, .micros = micros, .t = t};
    weft_status s = player_make(&g);
    if (s >= 0) s = play(&g, seconds, busy);
    player_free(&g);
    return s;
}

weft_status weft_pipeline_bubble(int stages, int chunks, int64_t micros, double *bubble) {
    const size_t parts = (size_t)stages * (size_t)chunks;
    double *times = weft_calloc(2 * parts, sizeof *times), seconds, busy;
    if (!times) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < 2 * parts; i++) times[i] = i < parts ? 1 : 2;
    const weft_pipeline_times t = {times, times + parts};
    const weft_status s = weft_pipeline_play(stages, chunks, micros, &t, &seconds, &busy);
    if (s >= 0) *bubble = seconds / busy - 1;
    free(times);
    return s;
}

/* --- who holds which layers ------------------------------------------------------------------------------- */

static double cost_of(const weft_pipeline_costs *c, const double *sum, int64_t first, int64_t end, int part,
                      int parts) {
    return sum[end] - sum[first] + (part == 0 ? c->embed : 0) + (part == parts - 1 ? c->head : 0);
}

typedef struct cutter {
    const weft_pipeline_costs *c;
    int parts;
    int64_t n;   /* layers + 1 */
    double *sum; /* [n]: of the layers before */
    /* best[k * n + i]: the least of all cuts of layers [i, layers) into parts k and later; DBL_MAX: there is none */
    double *best;
} cutter;

/* Part k of layers [i, end), and the best of those behind it: the larger cost, or with a bound the sum of squares. */
static double joined(const cutter *u, int k, int64_t i, int64_t end, double bound) {
    const double here = cost_of(u->c, u->sum, i, end, k, u->parts);
    const double rest = k + 1 < u->parts ? u->best[(k + 1) * u->n + end] : end + 1 == u->n ? 0 : DBL_MAX;
    if (here > bound || rest == DBL_MAX) return DBL_MAX;
    return bound < DBL_MAX ? here * here + rest : later(here, rest);
}

static double best_cut(const cutter *u, double bound) {
    for (int k = u->parts - 1; k >= 0; k--)
        for (int64_t i = 0; i < u->n; i++) {
            double *best = &u->best[k * u->n + i];
            *best = DBL_MAX;
            for (int64_t end = i + 1; end < u->n; end++) {
                const double cost = joined(u, k, i, end, bound);
                if (cost < *best) *best = cost;
            }
        }
    return u->best[0];
}

weft_status weft_pipeline_split(const weft_pipeline_costs *c, int parts, int64_t *first) {
    if (parts < 1 || c->layers < parts)
        return weft_fail(WEFT_ERR_CONFIG, "%lld layers cannot be cut into %d pipeline stages",
                         (long long)c->layers, parts);
    cutter u = {.c = c, .parts = parts, .n = c->layers + 1};
    u.sum = weft_calloc((size_t)u.n, sizeof *u.sum);
    u.best = weft_calloc((size_t)u.n * (size_t)parts, sizeof *u.best);
    const weft_status s = u.sum && u.best ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0) {
        for (int64_t i = 0; i < c->layers; i++) u.sum[i + 1] = u.sum[i] + (c->layer ? c->layer[i] : 1);
        const double bound = best_cut(&u, DBL_MAX);
        (void)best_cut(&u, bound);
        first[0] = 0;
        for (int k = 0; k < parts; k++) /* the longest part that is as good as any */
            for (int64_t end = first[k] + 1; end < u.n; end++)
                if (joined(&u, k, first[k], end, bound) == u.best[k * u.n + first[k]]) first[k + 1] = end;
    }
    free(u.sum);
    free(u.best);
    return s;
}
