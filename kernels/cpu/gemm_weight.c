/* Prepacked B: a header, then all panels of all K blocks as the kernels read them: K block, panel, step.
 *
 * Packing the weight once per optimiser step saves packing it in every product. A pack is good for one level,
 * one contract, one shape and one version of the weight; the header says which, and anything else is refused.
 */
#include <string.h>

#include "kernels/check.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/ops.h"

#define PACK_MAGIC 0x316b706774666577u /* "weftgpk1" */

struct pack_header {
    uint64_t magic;
    uint32_t contract, level, dtype, trans_b;
    uint32_t nr, k_block; /* units */
    int64_t n, k;
    uint64_t version, zero;
};
_Static_assert(sizeof(struct pack_header) == CPU_LINE, "panels begin on the next line");

static struct pack_header header_of(const struct cpu_gemm_plan *p, const weft_gemm_desc *d) {
    return (struct pack_header){
        .magic = PACK_MAGIC,
        .contract = WEFT_KERNELS_CONTRACT,
        .level = (uint32_t)p->isa->level,
        .dtype = (uint32_t)d->b,
        .trans_b = d->trans_b,
        .nr = (uint32_t)p->isa->nr,
        .k_block = (uint32_t)p->k.block,
        .n = d->n,
        .k = d->k,
        .version = d->pack_version,
    };
}

weft_status cpu_gemm_check_pack(const struct cpu_gemm_plan *p, const weft_gemm_desc *d, const void *pack) {
    struct pack_header found, wanted = header_of(p, d);
    memcpy(&found, pack, sizeof found);
    if (memcmp(&found, &wanted, sizeof found) == 0) return WEFT_OK;
    if (found.magic != PACK_MAGIC)
        return weft_fail(WEFT_ERR_STALE, "gemm: b was not packed by the cpu backend; pack it again");
    if (found.version != wanted.version)
        return weft_fail(WEFT_ERR_STALE,
                         "gemm: b is packed from version %llu of the weight, expected %llu; pack it again",
                         (unsigned long long)found.version, (unsigned long long)wanted.version);
    return weft_fail(
        WEFT_ERR_STALE,
        "gemm: b is packed as %s [%lld, %lld]%s for level %u, contract %u, blocks of %u x %u; expected %s "
        "[%lld, %lld]%s, level %u, contract %u, %u x %u; pack it again",
        weft_dtype_name((weft_dtype)found.dtype), (long long)found.k, (long long)found.n,
        found.trans_b ? " transposed" : "", found.level, found.contract, found.k_block, found.nr,
        weft_dtype_name(d->b), (long long)d->k, (long long)d->n, d->trans_b ? " transposed" : "",
        wanted.level, wanted.contract, wanted.k_block, wanted.nr);
}

/* Words before panel j of K block kb. */
static size_t panel_at(const struct cpu_gemm_plan *p, int64_t kb, int64_t j) {
    size_t before = (size_t)(kb * p->k.block * p->unit_steps) * (size_t)p->b_panels;
    return (before + (size_t)(cpu_gemm_steps(p, kb) * j)) * (size_t)p->isa->nr;
}

const uint32_t *cpu_gemm_packed_panel(const struct cpu_gemm_plan *p, const void *pack, int64_t kb,
                                      int64_t j) {
    return (const uint32_t *)((const char *)pack + sizeof(struct pack_header)) + panel_at(p, kb, j);
}

struct pack_job {
    const struct cpu_gemm_plan *p;
    const weft_gemm_desc *d;
    const void *b;
    void *dst;
    weft_exec *x;
};

static void pack_part(void *arg, int member, int members) {
    const struct pack_job *v = arg;
    const struct cpu_gemm_plan *p = v->p;
    const int64_t unit_k = v->d->b == WEFT_F32 ? 1 : 2;
    int64_t begin, end;
    cpu_split(p->b_panels, 1, member, members, &begin, &end);
    for (int64_t kb = 0; kb < p->k.blocks; kb++)
        for (int64_t j = begin; j < end; j++) {
            int64_t k0 = kb * p->k.block * unit_k, k1 = k0 + cpu_gemm_block_units(&p->k, kb) * unit_k;
            const void *from = cpu_gemm_at(v->d->b, v->b, v->d->trans_b, v->d->ldb, j * p->isa->nr, k0);
            p->isa->pack_b(p->words, v->d->trans_b, from, v->d->ldb, v->d->n - j * p->isa->nr,
                           (k1 < v->d->k ? k1 : v->d->k) - k0,
                           (uint32_t *)cpu_gemm_packed_panel(p, v->dst, kb, j));
            if (member == 0) cpu_tick(v->x);
        }
}

weft_status cpu_gemm_pack(weft_exec *x, const weft_gemm_desc *d, const void *b, void *dst, size_t *bytes) {
    struct cpu_gemm_plan p;
    struct pack_header h;
    size_t words, total, units;
    WEFT_TRY(weft_check_gemm_desc(d));
    if (d->b_packed) return weft_fail(WEFT_ERR_ARG, "gemm_pack: b is packed already");
    if (d->gated) return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm_pack: a gated product takes b as it is");
    WEFT_TRY(weft_check_given("gemm_pack", bytes != NULL));
    WEFT_TRY(weft_check_extent("gemm_pack", d->k, d->n));
    cpu_gemm_make_plan(cpu_backend_of(x), d, x->threads, &p);
    units = (size_t)ops_round_up(p.k.units, p.isa->step_units);
    if (!weft_mul_ok((size_t)(p.b_panels * p.isa->nr), units * (size_t)p.unit_steps, &words) ||
        !weft_mul_ok(words, 4, &total) || !weft_add_ok(total, sizeof h, &total))
        return weft_fail(WEFT_ERR_ARG, "gemm_pack: [%lld, %lld] is too large", (long long)d->k,
                         (long long)d->n);
    if (dst) {
        WEFT_TRY(weft_check_given("gemm_pack", b || d->k == 0 || d->n == 0));
        h = header_of(&p, d);
        memcpy(dst, &h, sizeof h);
        if (words) cpu_run(x, pack_part, &(struct pack_job){&p, d, b, dst, x});
    }
    *bytes = total;
    return WEFT_OK;
}
