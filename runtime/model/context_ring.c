/* Ring attention: blocks of k|v go from rank to rank, and each meets the queries of all.
 *
 * In step s a rank has the block of the rank s places before it and sends it on to the next while it computes; the block
 * for step s + 1 arrives meanwhile in the other of two buffers. Backwards the blocks go round once more, and with each goes
 * the f32 sum of its dk|dv: who has computed its part adds it and sends the sum after the block, so that the sum arrives
 * at the owner with the last step. The sum of the step before travels while the first pair of this one is computed.
 * Own keys go first and need no travel. Source: Liu et al., Ring Attention, 2023. */
#include "runtime/model/internal.h"

static weft_status link(weft_model *m, weft_dtype t, void *from, void *to, weft_halo **h) {
    const weft_zigzag *z = &m->cp.z;
    const size_t elem = weft_dtype_size(t);
    weft_face send = {.base = from, .t = t, .nd = 1, .n = {m->cp.block}, .stride = {(ptrdiff_t)elem}};
    weft_face recv = send;
    send.peer = (z->at + 1) % z->size;
    recv.base = to;
    recv.peer = (z->at + z->size - 1) % z->size;
    return weft_halo_create(m->cp.group, 1, &send, 1, &recv, h);
}

weft_status ring_connect(weft_model *m) {
    context_parallel *c = &m->cp;
    WEFT_TRY(link(m, m->o.t, c->kv[0], c->kv[1], &c->pass_kv));
    return m->o.training ? link(m, WEFT_F32, c->travel[0], c->travel[1], &c->pass_sums) : WEFT_OK;
}

/* Sends buf[from] on; the other one receives. */
static weft_status pass(weft_halo *h, void *const buf[2], int from) {
    WEFT_TRY(weft_halo_move(h, 0, 0, buf[from]));
    WEFT_TRY(weft_halo_move(h, 1, 0, buf[1 - from]));
    return weft_halo_start(h);
}

static weft_status pass_kv(weft_model *m, int step) {
    if (step + 1 < m->cp.z.size) TIMED(m, WEFT_TIME_COMM, pass(m->cp.pass_kv, m->cp.kv, step % 2));
    return WEFT_OK;
}

static weft_status wait_kv(weft_model *m, int step) {
    if (step + 1 < m->cp.z.size) TIMED(m, WEFT_TIME_COMM, weft_halo_wait(m->cp.pass_kv, -1));
    return WEFT_OK;
}

static int owner(const weft_zigzag *z, int step) {
    return (z->at + z->size - step) % z->size;
}

weft_status ring_fwd(weft_model *m, layer_acts *a) {
    context_parallel *c = &m->cp;
    uint8_t begun[CONTEXT_CHUNKS] = {0};
    WEFT_TRY(context_pack(m, a, c->kv[0]));
    for (int step = 0; step < c->z.size; step++) {
        const char *kv = c->kv[step % 2];
        WEFT_TRY(pass_kv(m, step));
        for (int j = 0; j < c->z.chunks; j++) {
            const int key = weft_zigzag_chunk(&c->z, owner(&c->z, step), j);
            for (int i = 0; i < c->z.chunks; i++) {
                if (!context_sees(m, i, key)) continue;
                WEFT_TRY(context_meet(m, a, i, key, kv + (size_t)j * c->chunk * m->elem, !begun[i]));
                begun[i] = 1;
            }
        }
        WEFT_TRY(wait_kv(m, step));
    }
    return context_end_fwd(m, a);
}

/* The sums of the block of this step, once those of the ranks before are there. */
typedef struct sums {
    float *at;   /* [block] */
    int arrives; /* the wait is still to come */
} sums;

static weft_status wait_sums(weft_model *m, sums *s) {
    if (s->arrives) TIMED(m, WEFT_TIME_COMM, weft_halo_wait(m->cp.pass_sums, -1));
    s->arrives = 0;
    return WEFT_OK;
}

static weft_status step_bwd(weft_model *m, layer_acts *a, void *dqkv, int step, sums *s, uint8_t *begun) {
    context_parallel *c = &m->cp;
    const char *kv = c->kv[step % 2];
    for (int j = 0; j < c->z.chunks; j++) {
        const int key = weft_zigzag_chunk(&c->z, owner(&c->z, step), j);
        for (int i = 0; i < c->z.chunks; i++) {
            if (!context_sees(m, i, key)) continue;
            WEFT_TRY(context_part(m, a, i, key, kv + (size_t)j * c->chunk * m->elem));
            WEFT_TRY(wait_sums(m, s));
            WEFT_TRY(context_add(m, i, dqkv, !begun[i], s->at + (size_t)j * c->chunk));
            begun[i] = 1;
        }
    }
    return wait_sums(m, s);
}

weft_status ring_bwd(weft_model *m, layer_acts *a, void *dqkv) {
    context_parallel *c = &m->cp;
    void *const travel[2] = {c->travel[0], c->travel[1]};
    const size_t bytes = c->block * sizeof(float);
    uint8_t begun[CONTEXT_CHUNKS] = {0};
    WEFT_TRY(context_pack(m, a, c->kv[0]));
    TIMED(m, WEFT_TIME_COPY, m->ops->fill(m->x, c->own, 0, bytes));
    TIMED(m, WEFT_TIME_COPY,
          m->ops->fill(m->x, c->travel[1], 0, bytes)); /* nobody has been at it before step 1 */
    for (int step = 0; step < c->z.size; step++) {
        sums s = {.at = step ? c->travel[step % 2] : c->own, .arrives = step > 1};
        WEFT_TRY(pass_kv(m, step));
        WEFT_TRY(step_bwd(m, a, dqkv, step, &s, begun));
        if (step) TIMED(m, WEFT_TIME_COMM, pass(c->pass_sums, travel, step % 2));
        WEFT_TRY(wait_kv(m, step));
    }
    TIMED(m, WEFT_TIME_COMM, weft_halo_wait(c->pass_sums, -1));
    const void *pair[2] = {c->own, c->travel[c->z.size % 2]};
    TIMED(m, WEFT_TIME_COPY, m->ops->reduce_p(m->x, WEFT_F32, WEFT_SUM, 2, pair, c->own, c->block));
    return context_end_bwd(m, c->own, dqkv);
}
