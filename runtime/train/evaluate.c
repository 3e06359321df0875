/* Held-out loss; see evaluate.h. Batches of windows go round the ranks; the losses of all windows come
 * together as one array and are summed in window order, so that the figure does not depend on the number of
 * ranks. */
#include "runtime/train/evaluate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "comm/ctrl.h"

/* Windows [first, first + batch), filled up with ignored rows behind `end`; their targets into count[]. */
static weft_status load(const weft_data *d, const weft_evaluate_opts *o, int64_t first, int64_t end,
                        const weft_rows *rows, double *count) {
    const int64_t T = o->context;
    for (int64_t i = 0; i < o->batch; i++) {
        if (first + i < end) {
            WEFT_TRY(weft_data_eval_rows(d, 0, (uint64_t)(first + i), (size_t)i, rows));
            for (int64_t t = 0; t < T; t++) count[first + i] += rows->target[i * T + t] >= 0;
        } else {
            for (int64_t t = 0; t <= T; t++) rows->tok[i * (T + 1) + t] = -1;
            for (int64_t t = 0; t < T; t++) rows->target[i * T + t] = -1;
            for (int64_t t = 0; rows->start && t < T; t++) rows->start[i * T + t] = 0;
        }
    }
    return WEFT_OK;
}

/* This rank's share; sums[w] and sums[windows + w] are loss and targets of window w. All ranks make equally many passes:
 * some need each other's weights. */
static weft_status evaluate_share(weft_model *m, const weft_data *d, weft_group *g,
                                  const weft_evaluate_opts *o, int64_t windows, double *sums) {
    const int64_t shares = o->shares ? o->shares : weft_group_size(g), stride = shares * o->batch;
    const int64_t share = o->shares ? o->share : weft_group_rank(g);
    weft_rows rows = {0};
    double *loss = weft_calloc((size_t)o->batch, sizeof *loss),
           *count = weft_calloc((size_t)windows, sizeof *count);
    double sum;
    int64_t targets;
    weft_status s = weft_rows_alloc((size_t)o->batch, o->context, o->documents, &rows);
    if (!loss || !count) s = WEFT_ERR_NOMEM;
    const weft_model_input in = {rows.tok, rows.target, rows.start};
    for (int64_t round = 0; s >= 0 && round < windows; round += stride) {
        const int64_t first = round + share * o->batch;
        s = load(d, o, first, windows, &rows, count);
        if (s >= 0) s = weft_model_eval(m, &in, &sum, &targets, loss);
        for (int64_t i = first; s >= 0 && !o->mute && i < first + o->batch && i < windows; i++) {
            sums[i] = loss[i - first];
            sums[windows + i] = count[i];
        }
    }
    weft_rows_free(&rows);
    free(loss);
    free(count);
    return s;
}

weft_status weft_evaluate(weft_model *m, const weft_data *d, weft_group *g, const weft_evaluate_opts *o,
                          weft_evaluation *e) {
    double begin = weft_now();
    int64_t total = (int64_t)weft_data_eval_windows(d, 0), windows = o->windows;
    if (windows <= 0 || windows > total) windows = total;
    double *sums = weft_calloc(2 * (size_t)windows, sizeof *sums);
    weft_status s = sums ? evaluate_share(m, d, g, o, windows, sums) : WEFT_ERR_NOMEM;
    s = weft_ctrl_agree(g, s);
    assert(sums || s < 0);
    if (s >= 0) s = weft_ctrl_allreduce(g, sums, 2 * (size_t)windows, WEFT_F64, WEFT_SUM);
    if (s >= 0) {
        const weft_shard_info *info = weft_data_info(d);
        double nats = 0, targets = 0;
        for (int64_t i = 0; i < windows; i++) {
            nats += sums[i];
            targets += sums[windows + i];
        }
        /* a part of the windows, or of the targets, stands for the whole text by its share of the tokens */
        uint64_t all = info->masked ? info->targets : info->tokens - 1;
        double bytes = (double)info->source_bytes * (targets / (double)all);
        *e = (weft_evaluation){.loss = nats / targets,
                               .bits_per_byte = info->source_bytes ? nats / M_LN2 / bytes : NAN,
                               .tokens = targets,
                               .windows = windows,
                               .seconds = weft_now() - begin};
    }
    free(sums);
    return s;
}
