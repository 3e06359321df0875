/* Held-out loss; see evaluate.h. Batches of windows go round the ranks, or the pipelines; the losses of all windows come
 * together as one array and are summed in window order, so that the figure does not depend on the number of
 * ranks. */
#include "runtime/train/evaluate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "comm/ctrl.h"
#include "runtime/layout/pipeline.h"

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

typedef struct share {
    weft_model *m;
    const weft_data *d;
    const weft_evaluate_opts *o;
    int64_t first, stride; /* windows: of the first batch; from batch to batch */
    weft_rows rows;
    double *loss;  /* [batch] */
    double *count; /* [windows] */
    double *sums;  /* [2 windows]: loss and targets */
    int64_t windows;
} share;

/* Batch `number` of this share is through: the rank with the head has its losses. */
static weft_status tell(share *s, int64_t number) {
    const int64_t first = s->first + number * s->stride, end = first + s->o->batch;
    double sum;
    int64_t targets;
    WEFT_TRY(weft_model_loss(s->m, number, &sum, &targets, s->loss));
    for (int64_t i = first; !s->o->mute && i < end && i < s->windows; i++) {
        s->sums[i] = s->loss[i - first];
        s->sums[s->windows + i] = s->o->uncounted ? 0 : s->count[i];
    }
    return WEFT_OK;
}

/* One chunk of the model over one batch. */
static weft_status pass(share *s, const weft_pipeline *p, const weft_pipeline_action *a) {
    weft_links *links = s->o->links;
    const weft_model_input in = {s->rows.tok, s->rows.target, s->rows.start};
    if (a->chunk == 0)
        WEFT_TRY(load(s->d, s->o, s->first + a->micro * s->stride, s->windows, &s->rows, s->count));
    if (links) WEFT_TRY(weft_links_receive(links, a->chunk, 0, weft_model_entry(s->m, a->micro, a->chunk)));
    WEFT_TRY(weft_model_forward(s->m, a->micro, a->chunk, &in));
    if (links) WEFT_TRY(weft_links_send(links, a->chunk, 0, weft_model_exit(s->m, a->micro, a->chunk)));
    return p->stage + 1 == p->stages && a->chunk + 1 == p->chunks ? tell(s, a->micro) : WEFT_OK;
}

/* This rank's share; sums[w] and sums[windows + w] are loss and targets of window w. All ranks make equally many passes:
 * some need each other's weights. */
static weft_status evaluate_share(weft_model *m, const weft_data *d, weft_group *g,
                                  const weft_evaluate_opts *o, int64_t windows, double *sums) {
    const int64_t shares = o->shares ? o->shares : weft_group_size(g);
    const int64_t number = o->shares ? o->share : weft_group_rank(g);
    const weft_pipeline whole = {.stages = 1, .chunks = 1}, *p = o->pipeline ? o->pipeline : &whole;
    share s = {.m = m, .d = d, .o = o, .first = number * o->batch, .stride = shares * o->batch};
    weft_pipeline passes = {0};
    s.sums = sums;
    s.windows = windows;
    s.loss = weft_calloc((size_t)o->batch, sizeof *s.loss);
    s.count = weft_calloc((size_t)windows, sizeof *s.count);
    weft_status st = weft_rows_alloc((size_t)o->batch, o->context, o->documents, &s.rows);
    if (!s.loss || !s.count) st = WEFT_ERR_NOMEM;
    if (st >= 0)
        st = weft_pipeline_create(p->stages, p->stage, p->chunks, (windows + s.stride - 1) / s.stride, 0,
                                  &passes);
    if (o->together) st = weft_ctrl_agree(g, st);
    for (size_t i = 0; st >= 0 && i < passes.n; i++) st = pass(&s, p, &passes.action[i]);
    weft_pipeline_destroy(&passes);
    weft_rows_free(&s.rows);
    free(s.loss);
    free(s.count);
    return st;
}

weft_status weft_evaluate(weft_model *m, const weft_data *d, weft_group *g, const weft_evaluate_opts *o,
                          weft_evaluation *e) {
    double begin = weft_now();
    int64_t total = (int64_t)weft_data_eval_windows(d, 0), windows = o->windows;
    if (windows <= 0 || windows > total) windows = total;
    double *sums = weft_calloc(2 * (size_t)windows, sizeof *sums);
    weft_status s = sums ? evaluate_share(m, d, g, o, windows, sums) : WEFT_ERR_NOMEM;
    if (s < 0 && o->together) { /* the others wait in passes, not for agreement */
        free(sums);
        return s;
    }
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
