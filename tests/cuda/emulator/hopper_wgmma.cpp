/* wgmma: descriptors, fragments, asynchrony; see hopper_model.h. Operands are taken when the first thread issues, sums are
 * made when the first thread waits, and each thread gets its own in its own wait. */
#include "tests/cuda/emulator/hopper_state.h"

#include <string.h>

#define ROWS  64 /* of D and A */
#define DEPTH 16 /* k of one instruction */

static const uint32_t in_flight = 0x7fc0f117; /* a NaN that no sum is */

static hopper_warpgroup *my_group(void) {
    return &hopper_self()->group[emu_self->linear / HOPPER_GROUP];
}

/* --- operands in shared memory --- */

/* Offset in shared memory of element (i of M or N, k) of the operand that descriptor d describes. The swizzle follows the
 * bits of the address. */
static uint32_t operand_offset(uint64_t d, int trans, int i, int k) {
    const uint32_t start = (uint32_t)(d & 0x3fff) << 4, leading = (uint32_t)(d >> 16 & 0x3fff) << 4,
                   stride = (uint32_t)(d >> 32 & 0x3fff) << 4;
    uint32_t at = start;
    if (trans) /* rows of k, 64 of M or N wide */
        at += (uint32_t)(i % 64) * 2 + (uint32_t)(i / 64) * leading + (uint32_t)(k % 8) * 128 +
              (uint32_t)(k / 8) * stride;
    else /* rows of M or N, 64 k wide */
        at += (uint32_t)(i % 8) * 128 + (uint32_t)(i / 8) * stride + (uint32_t)k * 2;
    at ^= at >> 3 & 0x70;
    return at - HOPPER_SHARED_AT;
}

static void check_descriptor(uint64_t d) {
    if (d >> 62 != 1) emu_die("wgmma: swizzle %d, only 128 bytes is modelled", (int)(d >> 62));
    if (d >> 49 & 7) emu_die("wgmma: a base offset");
    if (d & ~(UINT64_C(0x3fff) | UINT64_C(0x3fff) << 16 | UINT64_C(0x3fff) << 32 | UINT64_C(3) << 62))
        emu_die("wgmma: bits of the descriptor that mean nothing");
}

/* seen[i * DEPTH + k], i < n. */
static void read_operand(uint64_t d, int trans, int n, std::vector<uint16_t> *seen, bool first) {
    const hopper_block *h = hopper_self();
    const emu_block *b = h->block;
    seen->resize((size_t)n * DEPTH);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < DEPTH; k++) {
            const uint32_t at = operand_offset(d, trans, i, k);
            if (at >= b->shared_bytes || at + 2 > b->shared_bytes)
                emu_die("wgmma: an operand outside of shared memory");
            if (first && h->writer[at / 16]) hopper_check_fenced(h, at, 2, "wgmma");
            memcpy(&(*seen)[(size_t)i * DEPTH + (size_t)k], b->shared + at, 2);
        }
}

/* --- fragments --- */

static int d_row(unsigned thread, int i) {
    return (int)(thread % HOPPER_GROUP / 32 * 16 + thread % 32 / 4) + 8 * (i / 2 % 2);
}
static int d_column(unsigned thread, int i) {
    return i / 4 * 8 + (int)(thread % 4) * 2 + i % 2;
}

static void keep_a(hopper_product *p, const uint32_t *a) {
    const unsigned thread = emu_self->linear;
    for (int i = 0; i < 4; i++) {
        const int row = d_row(thread, i % 2 * 2), k = (int)(thread % 4) * 2 + i / 2 * 8;
        p->a_seen[(size_t)(row * DEPTH + k)] = (uint16_t)a[i];
        p->a_seen[(size_t)(row * DEPTH + k + 1)] = (uint16_t)(a[i] >> 16);
    }
}

/* --- issue --- */

static std::shared_ptr<hopper_product> first_issue(int n, bool registers, uint64_t a, uint64_t b, int trans_a,
                                                   int trans_b, int accumulate) {
    std::shared_ptr<hopper_product> p(new hopper_product());
    p->n = n;
    p->registers = registers;
    p->a = a;
    p->b = b;
    p->trans_a = trans_a;
    p->trans_b = trans_b;
    p->accumulate = accumulate != 0;
    p->sum.resize((size_t)ROWS * (size_t)n);
    check_descriptor(b);
    read_operand(b, trans_b, n, &p->b_seen, true);
    if (registers) {
        p->a_seen.resize(ROWS * DEPTH);
    } else {
        check_descriptor(a);
        read_operand(a, trans_a, ROWS, &p->a_seen, true);
    }
    return p;
}

static void check_same(const hopper_product *p, int n, bool registers, uint64_t a, uint64_t b, int trans_a,
                       int trans_b, int accumulate) {
    if (p->n != n || p->registers != registers || p->a != a || p->b != b || p->trans_a != trans_a ||
        p->trans_b != trans_b || p->accumulate != (accumulate != 0))
        emu_die("wgmma: the threads of a warpgroup issue different ones");
}

/* The accumulators of this thread go into flight. */
static void take_accumulators(const std::shared_ptr<hopper_product> &p, float *d) {
    hopper_thread *t = hopper_my();
    for (hopper_flight &f : t->flight) {
        if (f.d != d) continue;
        if (f.last->n != p->n) emu_die("wgmma: accumulators in flight with another n");
        if (p->issued && p->before != f.last)
            emu_die("wgmma: threads of a warpgroup use different accumulators");
        p->before = f.last;
        f.last = p;
        f.group = 0;
        return;
    }
    if (p->issued && p->before) emu_die("wgmma: threads of a warpgroup use different accumulators");
    for (int i = 0; i < p->n / 2; i++) {
        p->sum[(size_t)(d_row(emu_self->linear, i) * p->n + d_column(emu_self->linear, i))] = d[i];
        memcpy(&d[i], &in_flight, sizeof in_flight);
    }
    t->flight.push_back({d, p, 0});
}

void wgmma_fence(void) {
    hopper_my()->fenced = true;
}

void emu_wgmma(int n, float *d, const uint32_t *a_registers, uint64_t a, uint64_t b, int trans_a, int trans_b,
               int accumulate) {
    hopper_warpgroup *g = my_group();
    hopper_thread *t = hopper_my();
    if (hopper_self()->block->nthreads % HOPPER_GROUP) emu_die("wgmma: a block of no whole warpgroups");
    if (!t->fenced) emu_die("wgmma: no wgmma.fence since the last commit");
    const unsigned at = t->products - g->first;
    if (at == g->product.size())
        g->product.push_back(first_issue(n, a_registers != NULL, a, b, trans_a, trans_b, accumulate));
    std::shared_ptr<hopper_product> p = g->product[at];
    check_same(p.get(), n, a_registers != NULL, a, b, trans_a, trans_b, accumulate);
    if (a_registers) keep_a(p.get(), a_registers);
    take_accumulators(p, d);
    p->issued++;
    t->products++;
}

void wgmma_commit(void) {
    hopper_thread *t = hopper_my();
    t->fenced = false;
    t->groups++;
    t->group_end.push_back(t->products);
    for (hopper_flight &f : t->flight)
        if (!f.group) f.group = t->groups;
}

/* --- completion --- */

static float f32_of_bits(uint16_t h) {
    const uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void compute(hopper_product *p) {
    std::vector<uint16_t> again;
    std::vector<float> b((size_t)(DEPTH * p->n));
    read_operand(p->b, p->trans_b, p->n, &again, false);
    if (again != p->b_seen) emu_die("wgmma: B was overwritten in flight");
    if (!p->registers) {
        read_operand(p->a, p->trans_a, ROWS, &again, false);
        if (again != p->a_seen) emu_die("wgmma: A was overwritten in flight");
    }
    if (p->before) p->sum = p->before->sum;
    if (!p->accumulate) p->sum.assign(p->sum.size(), 0.0f);
    for (int j = 0; j < p->n; j++)
        for (int k = 0; k < DEPTH; k++)
            b[(size_t)(k * p->n + j)] = f32_of_bits(p->b_seen[(size_t)(j * DEPTH + k)]);
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < DEPTH; k++) {
            const float v = f32_of_bits(p->a_seen[(size_t)(i * DEPTH + k)]);
            float *sum = &p->sum[(size_t)(i * p->n)];
            const float *row = &b[(size_t)(k * p->n)];
            for (int j = 0; j < p->n; j++) sum[j] += v * row[j];
        }
    p->done = true;
    p->before.reset();
}

struct issue_wait {
    hopper_product *p;
};
static bool all_issued(void *arg) {
    return ((issue_wait *)arg)->p->issued == HOPPER_GROUP;
}

/* Gives this thread its sums of a finished chain. */
static void fetch(const hopper_flight &f) {
    for (int i = 0; i < f.last->n / 2; i++) {
        if (memcmp(&f.d[i], &in_flight, sizeof in_flight) != 0)
            emu_die("wgmma: accumulators were touched in flight");
        f.d[i] =
            f.last->sum[(size_t)(d_row(emu_self->linear, i) * f.last->n + d_column(emu_self->linear, i))];
    }
}

void emu_wgmma_wait(int groups) {
    hopper_warpgroup *g = my_group();
    hopper_thread *t = hopper_my();
    if (t->groups <= (unsigned)groups) return;
    const unsigned over = t->groups - (unsigned)groups, end = t->group_end[over - 1];
    /* in order; those before `first` have been given to every thread */
    for (unsigned i = g->first; i < end; i++) {
        std::shared_ptr<hopper_product> p = g->product[i - g->first];
        issue_wait w = {p.get()};
        emu_wait(all_issued, &w, "the other threads of the warpgroup to issue wgmma");
        if (!p->done) compute(p.get());
    }
    size_t left = 0;
    for (size_t i = 0; i < t->flight.size(); i++) {
        if (t->flight[i].group && t->flight[i].group <= over)
            fetch(t->flight[i]);
        else
            t->flight[left++] = t->flight[i];
    }
    t->flight.resize(left);
    for (unsigned i = 0; i < end; i++)
        if (i >= g->first && i >= t->given) g->product[i - g->first]->fetched++;
    if (end > t->given) t->given = end;
    while (!g->product.empty() && g->product.front()->fetched == HOPPER_GROUP) {
        g->product.pop_front();
        g->first++;
    }
}
