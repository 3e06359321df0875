/* Data-parallel layout; see layout.h. */
#include "runtime/layout/layout.h"

#include <string.h>

static int power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}

weft_status weft_layout_make(int64_t batch, int64_t micro_batch, int ranks, int rank, int reproducible,
                             weft_layout *l) {
    memset(l, 0, sizeof *l);
    if (batch < 1 || ranks < 1) return weft_fail(WEFT_ERR_CONFIG, "train.batch must be at least 1");
    if (batch % ranks)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "train.batch is %lld sequences, which %d ranks cannot share equally; take a multiple of %d",
            (long long)batch, ranks, ranks);
    if (micro_batch == 0) micro_batch = batch / ranks;
    if (micro_batch < 1 || batch % (micro_batch * ranks))
        return weft_fail(WEFT_ERR_CONFIG,
                         "train.batch %lld is not a multiple of train.micro_batch %lld times %d ranks",
                         (long long)batch, (long long)micro_batch, ranks);
    l->dp = ranks;
    l->rank = rank;
    l->batch = batch;
    l->micro_batch = micro_batch;
    l->micro_total = batch / micro_batch;
    l->micro_count = l->micro_total / ranks;
    l->micro_first = rank * l->micro_count;
    if (reproducible && (!power_of_two(l->micro_total) || !power_of_two(ranks)))
        return weft_fail(
            WEFT_ERR_CONFIG,
            "train.reproducible sums the gradients of the micro-batches in one binary tree: their number "
            "(train.batch / train.micro_batch = %lld) and the number of ranks (%d) must be powers of two",
            (long long)l->micro_total, ranks);
    return WEFT_OK;
}

void weft_layout_by_data(weft_layout *l) {
    l->micro_count = (l->batch + l->micro_batch - 1) / l->micro_batch;
    l->micro_total = l->dp * l->micro_count;
    l->micro_first = l->rank * l->micro_count;
}
