/* How attention's work is shared out: which member computes which groups of queries and blocks of keys.
 *
 * An item is computed by one member in one order, so the bits do not depend on the team. */
#include "kernels/cpu/attention.h"

/* --- forward --- */

static struct attn_plan plan_of(const weft_attn_desc *d, int members) {
    struct attn_plan p;
    p.heads = d->hq / d->hkv;
    p.per_head = ops_ceil_div(d->tq, ATTN_GROUP);
    p.groups = p.heads * p.per_head;
    p.pairs = (int64_t)d->batch * d->hkv;
    /* large items share the packing of keys, small ones share the work evenly: four items a member if there
     * are */
    p.chunk = ops_ceil_div(p.pairs * p.groups, (int64_t)members * 4);
    p.chunk = p.chunk > ATTN_CHUNK ? ATTN_CHUNK : p.chunk;
    p.chunk = ops_ceil_div(p.groups, ops_ceil_div(p.groups, p.chunk));
    return p;
}

/* Keys that a group sees, documents aside, plus what it costs by itself. */
static int64_t group_cost(const weft_attn_desc *d, const struct attn_plan *p, int64_t group) {
    int64_t q0 = group % p->per_head * ATTN_GROUP,
            last = q0 + ATTN_GROUP < d->tq ? q0 + ATTN_GROUP - 1 : d->tq - 1;
    int64_t lo, hi, lo_last, hi_last;
    attn_visible(d, NULL, 0, q0, &lo, &hi);
    attn_visible(d, NULL, 0, last, &lo_last, &hi_last);
    return (hi_last > lo ? hi_last - lo : 0) + ATTN_GROUP;
}

/* An item belongs to the member in whose share of the total cost its middle lies. */
void attn_share_forward(const struct attn *a, int member, int members, attn_forward_item *item, void *w) {
    struct attn_plan p = plan_of(a->d, members);
    double pair_cost = 0, total, before = 0;
    for (int64_t g = 0; g < p.groups; g++) pair_cost += (double)group_cost(a->d, &p, g);
    total = pair_cost * (double)p.pairs;
    for (int64_t pair = 0; pair < p.pairs; pair++)
        for (int64_t first = 0; first < p.groups; first += p.chunk) {
            int64_t n = p.groups - first < p.chunk ? p.groups - first : p.chunk;
            double cost = 0;
            for (int64_t g = 0; g < n; g++) cost += (double)group_cost(a->d, &p, first + g);
            int owner = (int)((before + cost / 2) / total * members);
            before += cost;
            if ((owner < members ? owner : members - 1) == member)
                item(a, w, &p, pair, first, n, member == 0);
        }
}

/* --- backward --- */

#define Q_PART 3 /* groups of queries of an item that makes only dQ */

/* Items of the member: pairs if they share out well, else single blocks of keys, then a few groups of
 * queries. */
void attn_share_backward(const struct attn *a, int64_t block, int member, int members,
                         attn_backward_item *item, void *w) {
    const weft_attn_desc *d = a->d;
    int64_t pairs = (int64_t)d->batch * d->hkv, heads = d->hq / d->hkv, begin, end;
    int64_t q_groups = ops_ceil_div(d->tq, ATTN_GROUP), k_blocks = ops_ceil_div(d->tk, block);
    int64_t parts = ops_ceil_div(q_groups, Q_PART);
    struct attn_item it = {
        .heads = heads, .q_groups = q_groups, .k_blocks = k_blocks, .make_dkv = 1, .make_dq = 1};
    /* five products on the busiest member against seven shared evenly */
    if (ops_ceil_div(pairs, members) * members * 5 <= pairs * 7 || k_blocks == 1) {
        cpu_split(pairs, 1, member, members, &begin, &end);
        for (it.pair = begin; it.pair < end; it.pair++) item(a, w, &it, member == 0);
        return;
    }
    /* round robin: under a causal mask neighbouring blocks differ little in cost */
    it.make_dq = 0;
    it.k_blocks = 1;
    for (int64_t i = member; i < pairs * k_blocks; i += members) {
        it.pair = i / k_blocks;
        it.k_block = i % k_blocks;
        item(a, w, &it, member == 0);
    }
    it = (struct attn_item){.heads = 1, .k_blocks = k_blocks, .make_dq = 1};
    for (int64_t i = member; i < pairs * heads * parts; i += members) {
        it.pair = i / (heads * parts);
        it.head = i / parts % heads;
        it.q_group = i % parts * Q_PART;
        it.q_groups = q_groups - it.q_group < Q_PART ? q_groups - it.q_group : Q_PART;
        item(a, w, &it, member == 0);
    }
}
