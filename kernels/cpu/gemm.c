/* C = epilogue(op(A) op(B) + beta C): packed panels, a tile of C in registers.
 *
 * The team is a grid of tm x tn members, each with its own rows and columns of C and its own packed panels
 * (panels shared between cores that turn out to be far apart cost half of the speed). A member does
 *
 *     for a chunk of its rows of A         (its packed panels stay in L3)
 *       for a K block
 *         for a block of its columns of B  (packed, stays in L2)
 *           for an A panel of the chunk    (packed at the first block, stays in L1)
 *             for a B panel of the block: tile; add to C, or finish with the epilogue
 *
 * K is never split between members, and where it is cut depends on K alone (gemm_plan.c), so the bits of C do
 * not depend on the team. Between K blocks the sums live in C itself, or, if C is bf16 or gated, in fp32
 * scratch.
 * Source: Goto & van de Geijn 2008; Van Zee & van de Geijn, BLIS, 2015. */
#include <string.h>

#include "kernels/check.h"
#include "kernels/cpu/gemm.h"

#define TILE_WORDS (32 * 32) /* of the largest level */

struct gemm_job {
    const struct cpu_gemm_plan *plan;
    struct cpu_gemm_out out;
    const weft_gemm_desc *d;
    const void *a, *b;
    int store_only; /* the epilogue does nothing */
    weft_exec *x;
};

/* One member's part, and where it is in it. */
struct part {
    const struct gemm_job *job;
    int64_t row_begin, row_end, col_begin, col_end; /* panels */
    uint32_t *a, *b;                                /* packed chunk and block */
    float *partial;
    float *gate; /* a finished tile of it, until that of up is */
    int member;
    /* now */
    int64_t chunk, kb, steps, k0, k_len;
};

/* A B panel as the tile kernel wants it. */
struct b_panel {
    const uint32_t *at;
    int64_t ld;
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void pack_a(const struct part *v, int64_t i, uint32_t *panel) {
    const struct gemm_job *job = v->job;
    const weft_gemm_desc *d = job->d;
    const struct cpu_gemm_isa *isa = job->plan->isa;
    int64_t row = i * isa->mr;
    isa->pack_a(job->plan->words, !d->trans_a, cpu_gemm_at(d->a, job->a, !d->trans_a, d->lda, row, v->k0),
                d->lda, d->m - row, v->k_len, panel);
}

/* The bias gradient: the members that own the first columns sum the panels that they have just packed. */
static void add_col_sum(const struct part *v, int64_t i, const uint32_t *panel) {
    const struct gemm_job *job = v->job;
    const struct cpu_gemm_isa *isa = job->plan->isa;
    float sum[32], *to = job->out.e->col_sum + i * isa->mr;
    int rows = (int)least(isa->mr, job->d->m - i * isa->mr);
    isa->col_sum(job->plan->words, v->steps, panel, sum);
    for (int r = 0; r < rows; r++) to[r] = v->kb > 0 || job->d->beta ? to[r] + sum[r] : sum[r];
}

static int panel_in_place(const struct gemm_job *job, int64_t j) {
    return job->plan->in_place_b && cpu_gemm_cols(job->plan, job->d, j) == job->plan->isa->nr;
}

static uint32_t *packed_b(const struct part *v, int64_t j, int64_t block) {
    return v->b + (j - block) * v->steps * v->job->plan->isa->nr;
}

static void pack_block(const struct part *v, int64_t block, int64_t block_end) {
    const struct gemm_job *job = v->job;
    const weft_gemm_desc *d = job->d;
    const struct cpu_gemm_isa *isa = job->plan->isa;
    if (d->b_packed) return;
    for (int64_t j = block; j < block_end; j++) {
        int64_t col = cpu_gemm_col(job->plan, d, j);
        if (panel_in_place(job, j)) continue;
        isa->pack_b(job->plan->words, d->trans_b, cpu_gemm_at(d->b, job->b, d->trans_b, d->ldb, col, v->k0),
                    d->ldb, cpu_gemm_cols(job->plan, d, j), v->k_len, packed_b(v, j, block));
    }
    if (v->member == 0) cpu_tick(job->x);
}

static struct b_panel find_b(const struct part *v, int64_t j, int64_t block) {
    const struct gemm_job *job = v->job;
    const int nr = job->plan->isa->nr;
    if (job->d->b_packed) return (struct b_panel){cpu_gemm_packed_panel(job->plan, job->b, v->kb, j), nr};
    if (panel_in_place(job, j))
        return (struct b_panel){
            cpu_gemm_at(WEFT_F32, job->b, 0, job->d->ldb, cpu_gemm_col(job->plan, job->d, j), v->k0),
            job->d->ldb};
    return (struct b_panel){packed_b(v, j, block), nr};
}

/* tile = sums + tile */
static void add_sums(float *tile, int nr, const float *sums, int64_t ld, int rows, int cols) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) tile[r * nr + c] = sums[r * ld + c] + tile[r * nr + c];
}

static void do_tile(const struct part *v, int64_t i, int64_t j, const uint32_t *a, struct b_panel b) {
    const struct gemm_job *job = v->job;
    const struct cpu_gemm_plan *p = job->plan;
    const struct cpu_gemm_isa *isa = p->isa;
    const int64_t row = i * isa->mr, col = cpu_gemm_col(p, job->d, j);
    const int rows = (int)least(isa->mr, job->d->m - row), cols = cpu_gemm_cols(p, job->d, j);
    const int last = v->kb + 1 == p->k.blocks, gated = job->d->gated;
    int add = v->kb > 0 || job->d->beta;
    _Alignas(CPU_LINE) float buffer[TILE_WORDS], *tile = gated && j % 2 == 0 ? v->gate : buffer;
    float *sums = NULL;
    int64_t ld = job->d->ldc;
    if (p->partials) {
        ld = (v->col_end - v->col_begin) * isa->nr;
        sums = v->partial + (row - v->chunk * isa->mr) * ld + (j - v->col_begin) * isa->nr;
    } else if (job->d->c == WEFT_F32 && !gated) {
        sums = (float *)job->out.c + row * ld + col;
        /* The common case, a whole tile that is only stored: the kernel writes C itself. */
        if (cols == isa->nr && (rows == isa->mr || (!isa->continues && (rows <= 2 || rows == 4))) &&
            p->words != CPU_WORDS_WIDE && (!last || job->store_only)) {
            isa->tile(p->words, v->steps, rows, a, b.at, b.ld, sums, ld, add);
            return;
        }
    }
    if (isa->continues && add)
        for (int r = 0; r < rows; r++) memcpy(tile + r * isa->nr, sums + r * ld, (size_t)cols * sizeof *tile);
    isa->tile(p->words, v->steps, rows, a, b.at, b.ld, tile, isa->nr, isa->continues && add);
    if (isa->continues) add = 0;
    if (!gated || !last) {
        isa->finish(&job->out, row, col, rows, cols, tile, sums, ld, add, last);
        return;
    }
    if (add) add_sums(tile, isa->nr, sums, ld, rows, cols);
    if (tile != v->gate) isa->finish_gated(&job->out, row, j / 2 * isa->nr, rows, cols, v->gate, tile);
}

/* One K block of one chunk. */
static void multiply_block(struct part *v, int64_t chunk_end) {
    const struct gemm_job *job = v->job;
    const int mr = job->plan->isa->mr, sums = job->out.e && job->out.e->col_sum && v->col_begin == 0;
    for (int64_t block = v->col_begin; block < v->col_end; block += job->plan->block_panels) {
        int64_t block_end = least(block + job->plan->block_panels, v->col_end);
        pack_block(v, block, block_end);
        for (int64_t i = v->chunk; i < chunk_end; i++) {
            uint32_t *a = v->a + (i - v->chunk) * v->steps * mr;
            if (block == v->col_begin) {
                pack_a(v, i, a);
                if (sums) add_col_sum(v, i, a);
            }
            for (int64_t j = block; j < block_end; j++) do_tile(v, i, j, a, find_b(v, j, block));
            if (v->member == 0) cpu_tick(job->x);
        }
    }
}

static void multiply_part(const struct gemm_job *job, int member, char *scratch) {
    const struct cpu_gemm_plan *p = job->plan;
    const int64_t unit_k = job->d->a == WEFT_F32 ? 1 : 2;
    _Alignas(CPU_LINE) float gate[TILE_WORDS];
    struct part v = {.job = job, .gate = gate, .member = member};
    if (member >= p->tm * p->tn) return;
    cpu_split(p->a_panels, 1, member / p->tn, p->tm, &v.row_begin, &v.row_end);
    cpu_split(p->b_panels, p->pair, member % p->tn, p->tn, &v.col_begin, &v.col_end);
    if (v.col_begin == v.col_end) return;
    if (p->isa->begin) p->isa->begin();
    v.a = (uint32_t *)(void *)scratch;
    v.b = (uint32_t *)(void *)(scratch + cpu_part(p->a_bytes));
    v.partial = (float *)(void *)(scratch + cpu_part(p->a_bytes) + cpu_part(p->b_bytes));
    for (v.chunk = v.row_begin; v.chunk < v.row_end; v.chunk += p->chunk_panels) {
        int64_t chunk_end = least(v.chunk + p->chunk_panels, v.row_end);
        for (v.kb = 0; v.kb < p->k.blocks; v.kb++) {
            v.k0 = v.kb * p->k.block * unit_k;
            v.k_len = least(p->k.block * unit_k, job->d->k - v.k0);
            v.steps = cpu_gemm_steps(p, v.kb);
            multiply_block(&v, chunk_end);
        }
    }
    if (p->isa->end) p->isa->end();
}

static int stores_only(const weft_epilogue *e) {
    return !e || ((e->scale == 0.0f || e->scale == 1.0f) && !e->bias && !e->pre && e->act == WEFT_ACT_NONE &&
                  !e->act_bwd && !e->residual);
}

void cpu_gemm_member(weft_exec *x, const struct cpu_gemm_plan *p, const struct cpu_gemm_out *out,
                     const void *a, const void *b, int member, void *scratch) {
    const struct gemm_job job = {
        .plan = p, .out = *out, .d = out->d, .a = a, .b = b, .x = x, .store_only = stores_only(out->e)};
    multiply_part(&job, member, scratch);
}

static void multiply(void *arg, int member, int members) {
    const struct gemm_job *job = arg;
    (void)members;
    multiply_part(job, member, cpu_member_scratch(job->x, cpu_gemm_member_bytes(job->plan), member));
}

weft_status cpu_gemm(weft_exec *x, const weft_gemm_desc *d, const void *a, const void *b, void *c,
                     const weft_epilogue *e) {
    struct cpu_gemm_plan plan;
    struct gemm_job job = {
        .plan = &plan, .out = {d, e, c}, .d = d, .a = a, .b = b, .x = x, .store_only = stores_only(e)};
    WEFT_TRY(weft_check_gemm(d, a, b, c, e));
    if (d->m == 0 || d->n == 0) return WEFT_OK;
    cpu_gemm_make_plan(cpu_backend_of(x), d, x->threads, &plan);
    if (d->b_packed) {
        WEFT_TRY(weft_check_given("gemm", b != NULL));
        WEFT_TRY(cpu_gemm_check_pack(&plan, d, b));
    }
    WEFT_TRY_CTX(cpu_need_scratch(x, cpu_gemm_member_bytes(&plan) * (size_t)x->threads), "gemm");
    if (plan.thin)
        cpu_gemm_thin(x, &plan, &job.out, a, b);
    else
        cpu_run(x, multiply, &job);
    return WEFT_OK;
}
