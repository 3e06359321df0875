/* Held-out loss over all ranks, and a sample of text.
 *
 * Batches of windows go round the ranks; the losses of all windows come together as one array and are summed in window
 * order, so that the figure does not depend on the number of ranks. */
#include "runtime/train/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

/* Windows of batch b of the shard into t->batch, filled up with ignored rows; their targets into count[]. */
static weft_status load_windows(weft_trainer *t, int64_t first, int64_t end, double *count) {
    int64_t row = t->context + 1;
    for (int64_t i = 0; i < t->layout.micro_batch; i++) {
        int32_t *tok = t->batch + i * row;
        int64_t valid = 0;
        if (first + i < end) {
            WEFT_TRY(weft_data_eval_get(t->valid, 0, (uint64_t)(first + i), tok, &valid));
            count[first + i] = (double)valid;
        } else {
            for (int64_t k = 0; k < row; k++) tok[k] = -1;
        }
    }
    return WEFT_OK;
}

weft_status trainer_evaluate(weft_trainer *t, int64_t windows, double *loss, double *bpb) {
    *loss = *bpb = NAN;
    if (!t->valid) return WEFT_OK;
    int64_t total = (int64_t)weft_data_eval_windows(t->valid, 0), per = t->layout.micro_batch;
    if (windows <= 0 || windows > total) windows = total;
    double *sums = weft_calloc(2 * (size_t)windows, sizeof *sums), *rows = weft_calloc((size_t)per, sizeof *rows);
    weft_status s = sums && rows ? WEFT_OK : WEFT_ERR_NOMEM;
    int64_t batches = (windows + per - 1) / per;
    for (int64_t b = t->rank; s >= 0 && b < batches; b += t->ranks) {
        double sum;
        int64_t count;
        s = load_windows(t, b * per, windows, sums + windows);
        if (s >= 0) s = weft_model_eval(t->model, t->batch, &sum, &count, rows);
        for (int64_t i = 0; s >= 0 && i < per && b * per + i < windows; i++) sums[b * per + i] = rows[i];
    }
    s = weft_ctrl_agree(t->o.group, s);
    if (s >= 0) s = weft_ctrl_allreduce(t->o.group, sums, 2 * (size_t)windows, WEFT_F64, WEFT_SUM);
    if (s >= 0) {
        double nats = 0, targets = 0;
        for (int64_t i = 0; i < windows; i++) {
            nats += sums[i];
            targets += sums[windows + i];
        }
        const weft_shard_info *info = weft_data_info(t->valid);
        *loss = nats / targets;
        /* every token but the first is predicted; a part of the windows stands for the whole by its tokens */
        double bytes = (double)info->source_bytes * (windows == total ? 1 : targets / (double)(info->tokens - 1));
        if (info->source_bytes) *bpb = nats / M_LN2 / bytes;
    }
    free(sums);
    free(rows);
    return s;
}

weft_status trainer_sample(weft_trainer *t, char **text) {
    *text = NULL;
    const char *prompt = t->c->sample.prompt ? t->c->sample.prompt : "";
    size_t cap = strlen(prompt) + 2 + (size_t)t->c->sample.tokens, n = 0, bytes = 0;
    int64_t context = weft_model_desc_of(t->model)->context;
    uint32_t *ids = weft_calloc(cap, sizeof *ids);
    weft_decoder *d = NULL;
    weft_status s = ids ? weft_decoder_create(t->model, &d) : WEFT_ERR_NOMEM;
    int64_t eot = weft_tok_eot(t->tok);
    size_t lead = eot >= 0; /* a document begins behind end-of-text */
    if (s >= 0 && lead) ids[0] = (uint32_t)eot;
    if (s >= 0) s = weft_tok_encode(t->tok, prompt, strlen(prompt), 0, ids + lead, cap - lead, &n);
    n += lead;
    if (s >= 0 && (n == 0 || (int64_t)n >= context)) s = weft_fail(WEFT_ERR_CONFIG, "sample.prompt has %zu tokens; the model takes 1 to %lld", n, (long long)context - 1);
    const float *logits = NULL;
    if (s >= 0) s = weft_decoder_feed(d, (const int32_t *)ids, (int64_t)n, &logits);
    for (int64_t i = 0; s >= 0 && i < t->c->sample.tokens; i++) {
        double u = weft_rng_uniform((uint64_t)t->c->run.seed, weft_rng_stream("sample"), (uint64_t)i);
        int32_t id = weft_decoder_sample(d, logits, t->c->sample.temperature, t->c->sample.top_k, 0, u);
        if (id == eot) break;
        ids[n++] = (uint32_t)id;
        if (weft_decoder_position(d) >= context) break;
        s = weft_decoder_feed(d, &id, 1, &logits);
    }
    if (s >= 0) s = weft_tok_decode(t->tok, ids + lead, n - lead, NULL, 0, &bytes);
    if (s == WEFT_ERR_NOMEM || s >= 0) {
        *text = weft_calloc(bytes + 1, 1);
        s = *text ? weft_tok_decode(t->tok, ids + lead, n - lead, *text, bytes, &bytes) : WEFT_ERR_NOMEM;
    }
    weft_decoder_destroy(d);
    free(ids);
    return s;
}
