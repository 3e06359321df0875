/* v <- MOMENTUM v + g + DECAY w, w <- w - RATE v. Each element by itself, so slices do not change a bit. */
#include "model.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MOMENTUM 0.9f
#define DECAY    0.01f
#define RATE     1e-3f

/* A number in [-0.5, 0.5) of its place. */
static float start(uint32_t place) {
    const uint32_t x = (place + 1) * 2654435761u;
    return (float)((x ^ (x >> 15)) >> 8) / 16777216.0f - 0.5f;
}

int model_open(model *m, int tensors, size_t each, int rank, int ranks) {
    const size_t r = (size_t)rank, n = (size_t)ranks;
    *m = (model){.tensors = tensors, .each = each, .lo = each * r / n, .hi = each * (r + 1) / n};
    const size_t own = m->hi - m->lo;
    if (!own) {
        fprintf(stderr, "coupled: tensors of %zu floats are too small for %d ranks\n", each, ranks);
        return -1;
    }
    m->weights = malloc((size_t)tensors * own * sizeof(float));
    m->velocity = calloc((size_t)tensors * own, sizeof(float));
    if (!m->weights || !m->velocity) {
        fprintf(stderr, "coupled: no memory for %zu weights\n", (size_t)tensors * own);
        return -1;
    }
    for (size_t i = 0; i < (size_t)tensors; i++)
        for (size_t k = 0; k < own; k++) m->weights[i * own + k] = start((uint32_t)(i * each + m->lo + k));
    return 0;
}

static weft_ckpt_part part_of(const model *m, const char *name, float *memory) {
    return (weft_ckpt_part){
        .name = name,
        .dtype = WEFT_F32,
        .ndim = 2,
        .shape = {m->tensors, (int64_t)m->each},
        .box = {.ndim = 2, .off = {0, (int64_t)m->lo}, .ext = {m->tensors, (int64_t)(m->hi - m->lo)}},
        .ptr = memory};
}

void model_parts(const model *m, weft_ckpt_part part[MODEL_PARTS]) {
    part[0] = part_of(m, "model/weights", m->weights);
    part[1] = part_of(m, "model/velocity", m->velocity);
}

void model_learn(model *m, const stream_ops *ops, stream *s) {
    const size_t own = m->hi - m->lo;
    for (int i = 0; i < m->tensors; i++) {
        const float *g = ops->tensor(s, i) + m->lo;
        float *w = m->weights + (size_t)i * own, *v = m->velocity + (size_t)i * own;
        for (size_t k = 0; k < own; k++) {
            v[k] = MOMENTUM * v[k] + g[k] + DECAY * w[k];
            w[k] -= RATE * v[k];
        }
    }
}

void model_close(model *m) {
    free(m->weights);
    free(m->velocity);
}
