/* Breadth-first search over the states of a machine. States live in one array in the order in which they were found; an
 * open-addressed table of their indices finds them again. The table's entries carry the number of the search, so it is
 * not cleared between searches. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/comm/model/inside.h"

#define SEARCHES (1u << 24)

typedef struct step {
    uint32_t from;
    move by;
} step;

struct model {
    size_t cap, mask, n, stride;
    uint8_t *state; /* cap states of `stride` bytes */
    step *step;
    uint64_t *table; /* search << 32 | index */
    uint32_t search;
    machine machine;
    /* the state being left */
    size_t at;
    int moves, full;
    size_t dead;
};

model *model_create(size_t states) {
    model *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->cap = states;
    size_t slots = 1;
    while (slots < 2 * states) slots *= 2;
    m->mask = slots - 1;
    m->state = malloc(states * MODEL_RANKS * sizeof(rank_state));
    m->step = malloc(states * sizeof *m->step);
    m->table = calloc(slots, sizeof *m->table);
    if (m->state && m->step && m->table) return m;
    model_destroy(m);
    return NULL;
}

void model_destroy(model *m) {
    if (!m) return;
    free(m->state);
    free(m->step);
    free(m->table);
    free(m);
}

size_t model_bytes(const model *m) {
    return m->cap * (MODEL_RANKS * sizeof(rank_state) + sizeof *m->step) + (m->mask + 1) * sizeof *m->table;
}

static uint64_t hash_bytes(const uint8_t *p, size_t n) {
    uint64_t h = n, w = 0;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&w, p, 8);
        h = (h ^ w) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    w = 0;
    memcpy(&w, p, n);
    h = (h ^ w) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static void add(void *arg, const rank_state *s, move by) {
    model *m = arg;
    const uint8_t *bytes = (const uint8_t *)s;
    m->moves++;
    for (size_t i = hash_bytes(bytes, m->stride) & m->mask;; i = (i + 1) & m->mask) {
        if (m->table[i] >> 32 == m->search) {
            if (!memcmp(m->state + (uint32_t)m->table[i] * m->stride, bytes, m->stride)) return;
            continue;
        }
        if (m->n == m->cap) {
            m->full = 1;
            return;
        }
        m->table[i] = (uint64_t)m->search << 32 | m->n;
        memcpy(m->state + m->n * m->stride, bytes, m->stride);
        m->step[m->n++] = (step){(uint32_t)m->at, by};
        return;
    }
}

static int depth_of(const model *m, size_t i) {
    int d = 0;
    for (; i; i = m->step[i].from) d++;
    return d;
}

static model_verdict search(model *m) {
    rank_state s[MODEL_RANKS] = {0};
    m->n = m->at = 0;
    m->full = 0;
    m->search = (m->search + 1) % SEARCHES;
    m->stride = (size_t)m->machine.nranks * sizeof(rank_state);
    add(m, s, (move){0});
    for (m->at = 0; m->at < m->n; m->at++) {
        memcpy(s, m->state + m->at * m->stride, m->stride);
        m->moves = 0;
        machine_moves(&m->machine, s, add, m);
        if (m->full) return MODEL_CUT;
        if (!m->moves && !machine_at_end(&m->machine, s)) {
            m->dead = m->at;
            return MODEL_DEAD;
        }
    }
    return MODEL_LIVE;
}

model_verdict model_explore(model *m, const model_program *p, const model_rules *r, size_t *states,
                            int *depth) {
    *states = 0;
    *depth = 0;
    if (!machine_open(&m->machine, p, r)) return MODEL_REFUSED;
    model_verdict v = machine_could_end(&m->machine) ? search(m) : MODEL_REFUSED;
    if (v != MODEL_REFUSED) {
        *states = m->n;
        *depth = depth_of(m, v == MODEL_DEAD ? m->dead : m->n - 1);
    }
    machine_close(&m->machine);
    return v;
}

void model_print(const model *m) {
    size_t way[512];
    int n = 0;
    rank_state before[MODEL_RANKS] = {0};
    for (size_t i = m->dead; i && n < 512; i = m->step[i].from) way[n++] = i;
    while (n--) {
        memcpy(before, m->state + m->step[way[n]].from * m->stride, m->stride);
        move_print(&m->machine, before, m->step[way[n]].by);
    }
    memcpy(before, m->state + m->dead * m->stride, m->stride);
    machine_print_stuck(&m->machine, before);
}
