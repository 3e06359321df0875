/* Axes and micro-batches; see layout.h. */
#include "runtime/layout/layout.h"

#include <stdio.h>
#include <string.h>

const char *const weft_axis_name[WEFT_AXES] = {"tp", "cp", "dp", "pp"};

static int power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}

/* The sizes of the axes: their product is the number of ranks. */
static weft_status take_sizes(const weft_layout_want *w, int ranks, weft_layout *l) {
    int64_t others = 1;
    for (int a = 0; a < WEFT_AXES; a++) {
        const int64_t n = w->size[a] ? w->size[a] : 1;
        if (n < 1 || n > ranks)
            return weft_fail(WEFT_ERR_CONFIG, "layout.%s is %lld, but there are %d ranks", weft_axis_name[a],
                             (long long)n, ranks);
        l->size[a] = (int)n;
        if (a != WEFT_AXIS_DP) others *= n;
    }
    if (!w->size[WEFT_AXIS_DP] && ranks % others == 0) l->size[WEFT_AXIS_DP] = (int)(ranks / others);
    const int64_t product = others * l->size[WEFT_AXIS_DP];
    if (product != ranks)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "layout: dp %d x tp %d x pp %d x cp %d is %lld ranks, but there are %d; start that many, or "
            "leave layout.dp out and let tp x pp x cp (%lld) divide the number of ranks",
            l->size[WEFT_AXIS_DP], l->size[WEFT_AXIS_TP], l->size[WEFT_AXIS_PP], l->size[WEFT_AXIS_CP],
            (long long)product, ranks, (long long)others);
    return WEFT_OK;
}

static void take_place(int rank, weft_layout *l) {
    l->rank = rank;
    for (int a = 0; a < WEFT_AXES; a++) {
        l->at[a] = rank % l->size[a];
        rank /= l->size[a];
    }
    l->data = l->size[WEFT_AXIS_CP] * l->size[WEFT_AXIS_DP];
    l->data_at = l->at[WEFT_AXIS_DP] * l->size[WEFT_AXIS_CP] + l->at[WEFT_AXIS_CP];
}

static weft_status take_options(const weft_layout_want *w, weft_layout *l) {
    const int dp = l->size[WEFT_AXIS_DP];
    l->ep = w->ep ? (int)w->ep : 1;
    l->chunks = w->chunks ? (int)w->chunks : 1;
    l->zero = (int)w->zero;
    if (l->ep < 1 || dp % l->ep)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "layout.ep is %d: experts are dealt to ranks of the dp axis, which has %d; take a divisor", l->ep,
            dp);
    if (l->ep > 1 && l->zero)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "layout.zero is %d, but with layout.ep (%d) ranks hold different experts, which ZeRO does not "
            "share out; take layout.zero 0, or layout.ep 1",
            l->zero, l->ep);
    if (l->chunks > 1 && l->size[WEFT_AXIS_PP] == 1)
        return weft_fail(WEFT_ERR_CONFIG, "layout.chunks is %d, but there is one pipeline stage (layout.pp)",
                         l->chunks);
    return WEFT_OK;
}

static weft_status take_batch(const weft_layout_want *w, weft_layout *l) {
    const int dp = l->size[WEFT_AXIS_DP];
    int64_t micro = w->micro_batch;
    if (w->batch < 1) return weft_fail(WEFT_ERR_CONFIG, "train.batch must be at least 1");
    if (w->batch % dp)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "train.batch is %lld sequences, which %d ranks cannot share equally; take a multiple of %d",
            (long long)w->batch, dp, dp);
    if (micro == 0) micro = w->batch / dp;
    if (micro < 1 || w->batch % (micro * dp))
        return weft_fail(WEFT_ERR_CONFIG,
                         "train.batch %lld is not a multiple of train.micro_batch %lld times %d ranks",
                         (long long)w->batch, (long long)micro, dp);
    l->batch = w->batch;
    l->micro_batch = micro;
    l->micro_total = w->batch / micro;
    l->micro_count = l->micro_total / dp;
    l->micro_stride = l->zero >= 2 ? dp : 1;
    l->micro_first = l->zero >= 2 ? l->at[WEFT_AXIS_DP] : l->at[WEFT_AXIS_DP] * l->micro_count;
    if (w->reproducible && (!power_of_two(l->micro_total) || !power_of_two(l->data)))
        return weft_fail(
            WEFT_ERR_CONFIG,
            "train.reproducible sums the gradients of the micro-batches in one binary tree: their number "
            "(train.batch / train.micro_batch = %lld) and the number of ranks that share them (%d) must be "
            "powers of two",
            (long long)l->micro_total, l->data);
    return WEFT_OK;
}

weft_status weft_layout_make(const weft_layout_want *w, int ranks, int rank, weft_layout *l) {
    memset(l, 0, sizeof *l);
    if (ranks < 1 || rank < 0 || rank >= ranks)
        return weft_fail(WEFT_ERR_ARG, "layout: rank %d of %d", rank, ranks);
    l->ranks = ranks;
    WEFT_TRY(take_sizes(w, ranks, l));
    take_place(rank, l);
    WEFT_TRY(take_options(w, l));
    return take_batch(w, l);
}

weft_status weft_layout_by_data(weft_layout *l) {
    if (l->size[WEFT_AXIS_DP] != l->ranks || l->zero >= 2 || l->ep > 1)
        return weft_fail(WEFT_ERR_CONFIG,
                         "data.private lets the data decide who computes what: it goes with data "
                         "parallel ranks only (layout.tp, pp, cp and ep 1) and layout.zero 0 or 1");
    l->micro_count = (l->batch + l->micro_batch - 1) / l->micro_batch;
    l->micro_total = l->ranks * l->micro_count;
    l->micro_first = l->rank * l->micro_count;
    return WEFT_OK;
}

void weft_layout_text(const weft_layout *l, char *buf, size_t bytes) {
    static const weft_axis order[] = {WEFT_AXIS_DP, WEFT_AXIS_TP, WEFT_AXIS_PP, WEFT_AXIS_CP};
    size_t at = 0;
    buf[0] = 0;
    for (size_t i = 0; i < WEFT_AXES; i++) {
        if (l->size[order[i]] == 1 && order[i] != WEFT_AXIS_DP) continue;
        at += (size_t)snprintf(buf + at, bytes - at, "%s%s %d", at ? " x " : "", weft_axis_name[order[i]],
                               l->size[order[i]]);
        if (at >= bytes) return;
    }
    if (l->chunks > 1) at += (size_t)snprintf(buf + at, bytes - at, ", %d chunks a stage", l->chunks);
    if (at < bytes && l->ep > 1) at += (size_t)snprintf(buf + at, bytes - at, ", ep %d", l->ep);
    if (at < bytes && l->zero) snprintf(buf + at, bytes - at, ", zero %d", l->zero);
}
