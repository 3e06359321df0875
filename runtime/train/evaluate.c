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

/* Windows [first, first + batch) into tok, filled up with ignored rows behind `end`; their targets into
 * count[]. */
static weft_status load(const weft_data *d, int64_t batch, int64_t context, int64_t first, int64_t end,
                        int32_t *tok, double *count) {
    for (int64_t i = 0; i < batch; i++, tok += context + 1) {
        int64_t valid = 0;
        if (first + i < end) {
            WEFT_TRY(weft_data_eval_get(d, 0, (uint64_t)(first + i), tok, &valid));
            count[first + i] = (double)valid;
        } else {
            for (int64_t k = 0; k <= context; k++) tok[k] = -1;
        }
    }
    return WEFT_OK;
}

/* This rank's share; sums[w] and sums[windows + w] are loss and targets of window w. */
static weft_status evaluate_share(weft_model *m, const weft_data *d, weft_group *g, int64_t batch,
                                  int64_t context, int64_t windows, double *sums) {
    int32_t *tok = weft_calloc((size_t)(batch * (context + 1)), sizeof *tok);
    double *rows = weft_calloc((size_t)batch, sizeof *rows);
    weft_status s = tok && rows ? WEFT_OK : WEFT_ERR_NOMEM;
    for (int64_t first = weft_group_rank(g) * batch; s >= 0 && first < windows;
         first += weft_group_size(g) * batch) {
        double sum;
        int64_t count;
        s = load(d, batch, context, first, windows, tok, sums + windows);
        if (s >= 0) s = weft_model_eval(m, tok, &sum, &count, rows);
        for (int64_t i = 0; s >= 0 && i < batch && first + i < windows; i++) sums[first + i] = rows[i];
    }
    free(tok);
    free(rows);
    return s;
}

weft_status weft_evaluate(weft_model *m, const weft_data *d, weft_group *g, int64_t batch, int64_t context,
                          int64_t windows, weft_evaluation *e) {
    double begin = weft_now();
    int64_t total = (int64_t)weft_data_eval_windows(d, 0);
    if (windows <= 0 || windows > total) windows = total;
    double *sums = weft_calloc(2 * (size_t)windows, sizeof *sums);
    weft_status s = sums ? evaluate_share(m, d, g, batch, context, windows, sums) : WEFT_ERR_NOMEM;
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
        /* a part of the windows stands for the whole text by its share of the tokens */
        double bytes =
            (double)info->source_bytes * (windows == total ? 1 : targets / (double)(info->tokens - 1));
        *e = (weft_evaluation){.loss = nats / targets,
                               .bits_per_byte = info->source_bytes ? nats / M_LN2 / bytes : NAN,
                               .tokens = targets,
                               .windows = windows,
                               .seconds = weft_now() - begin};
    }
    free(sums);
    return s;
}
