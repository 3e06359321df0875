/* The micro-batches of a step, through this rank's stage of the pipeline; a rank that holds all layers is a pipeline of one.
 *
 * The order of the passes is planned (runtime/layout/pipeline.h): before a pass its input is received, behind it its output
 * is sent. Both are copies, so a message never holds buffers of the model, and the kernels' tick lets them travel while
 * others compute. The gradient of a unit leaves when its last micro-batch is through, beside the passes of earlier chunks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/range.h"
#include "base/trace.h"
#include "comm/split.h"
#include "runtime/model/stages.h"
#include "runtime/train/internal.h"

/* --- planning ---------------------------------------------------------------------------------------------- */

/* layout.stages: numbers of layers. */
static weft_status take_given(const weft_trainer *t, int parts, int64_t *layers) {
    const weft_strlist *l = &t->c->layout.stages;
    if (l->n != (size_t)parts)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "layout.stages has %zu numbers of layers; layout.pp %d x layout.chunks %d are %d runs of "
            "layers",
            l->n, t->layout.size[WEFT_AXIS_PP], t->layout.chunks, parts);
    for (size_t i = 0; i < l->n; i++) {
        char *end;
        layers[i] = strtoll(l->item[i], &end, 10);
        if (*end || end == l->item[i])
            return weft_fail(WEFT_ERR_CONFIG, "layout.stages: '%s' is not a number of layers", l->item[i]);
    }
    return WEFT_OK;
}

weft_status trainer_plan_stage(weft_trainer *t, const weft_model_desc *d, weft_chunk *chunk, int *slots) {
    const weft_layout *l = &t->layout;
    const int stages = l->size[WEFT_AXIS_PP], parts = stages * l->chunks;
    const int again = t->c->train.recompute == WEFT_RECOMPUTE_LAYER;
    weft_pipeline *p = &t->stage.passes;
    WEFT_TRY(weft_pipeline_create(stages, l->at[WEFT_AXIS_PP], l->chunks, l->micro_count, 1, p));
    for (int c = 0; c < l->chunks; c++) slots[c] = p->slots[c];
    if (l->chunks > 1 && slots[0] < stages) slots[0] = stages; /* evaluation: a group in flight */
    int64_t *layers = t->stage.layers = weft_calloc((size_t)parts, sizeof *layers);
    if (!layers) return WEFT_ERR_NOMEM;
    const int64_t *given = t->c->layout.stages.n ? layers : NULL;
    if (given) WEFT_TRY(take_given(t, parts, layers));
    for (int s = 0; s < stages; s++) {
        WEFT_TRY(weft_stages_cut(d, t->context, again, stages, l->chunks, given, s, chunk));
        for (int c = 0; c < l->chunks && !given; c++) layers[c * stages + s] = chunk[c].end - chunk[c].first;
    }
    return weft_stages_cut(d, t->context, again, stages, l->chunks, layers, l->at[WEFT_AXIS_PP], chunk);
}

void trainer_pipeline_text(const weft_trainer *t, char *text, size_t bytes) {
    const weft_layout *l = &t->layout;
    const int stages = l->size[WEFT_AXIS_PP];
    size_t at = (size_t)snprintf(text, bytes, "%d stages, %s; layers", stages,
                                 l->chunks > 1 ? "interleaved" : "1F1B");
    for (int k = 0; k < stages * l->chunks && at < bytes; k++)
        at += (size_t)snprintf(text + at, bytes - at, " %lld", (long long)t->stage.layers[k]);
    double bubble = 0;
    if (at < bytes && weft_pipeline_bubble(stages, l->chunks, l->micro_count, &bubble) >= 0)
        snprintf(text + at, bytes - at, "; bubble %.1f %% of the work if they take equally long",
                 100 * bubble);
}

void trainer_note_links(weft_trainer *t, weft_dtype type) {
    const weft_layout *l = &t->layout;
    const size_t bytes = weft_links_bytes(l->size[WEFT_AXIS_PP], l->at[WEFT_AXIS_PP], l->chunks,
                                          weft_model_boundary(t->model), type);
    if (bytes) weft_arena_note(&t->memory, "buffers", bytes);
}

/* Both ends of the pipeline hold the table of a tied head. Every rank takes part in the split. */
static weft_status tie_ends(weft_trainer *t) {
    const weft_layout *l = &t->layout;
    const int others = l->ranks / l->size[WEFT_AXIS_PP], at = l->at[WEFT_AXIS_PP];
    const int is_end = at == 0 || at == l->size[WEFT_AXIS_PP] - 1;
    weft_group *ends;
    WEFT_TRY(weft_group_split(t->o.group, is_end ? l->rank % others : others + l->rank, at, "ends", &ends));
    return is_end ? weft_shards_tie(t->shards, ends) : WEFT_OK;
}

weft_status trainer_link_stage(weft_trainer *t) {
    weft_group *stages = t->mesh.axis[WEFT_AXIS_PP];
    if (!stages) return WEFT_OK;
    const weft_status s = weft_links_create(stages, t->layout.chunks, weft_model_boundary(t->model),
                                            t->c->train.dtype ? WEFT_BF16 : WEFT_F32, &t->stage.links);
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    return weft_model_desc_of(t->model)->tied ? tie_ends(t) : WEFT_OK;
}

/* --- a step ------------------------------------------------------------------------------------------------- */

static weft_status receive(weft_trainer *t, const weft_pipeline_action *a, void *data, double *since) {
    if (!t->stage.links) return WEFT_OK;
    WEFT_TRY(weft_links_receive(t->stage.links, a->chunk, a->backward, data));
    trainer_spend(t, PHASE_COMM, since);
    return WEFT_OK;
}

static weft_status send(weft_trainer *t, const weft_pipeline_action *a, void *data) {
    return t->stage.links ? weft_links_send(t->stage.links, a->chunk, a->backward, data) : WEFT_OK;
}

static weft_status take_rows(weft_trainer *t, weft_loader_at *at, weft_rows *rows, double *since) {
    weft_range_push(trainer_phase_name[PHASE_DATA]);
    WEFT_TRY(weft_loader_take(t->loader, at, rows));
    trainer_spend(t, PHASE_DATA, since);
    weft_range_pop();
    return WEFT_OK;
}

/* The first chunk's pass takes the rows; they stay with the micro-batch. */
static weft_status forward(weft_trainer *t, const weft_pipeline_action *a, weft_loader_at *at,
                           double *since) {
    weft_rows rows = {0};
    if (a->chunk == 0) WEFT_TRY(take_rows(t, at, &rows, since));
    WEFT_TRY(receive(t, a, weft_model_entry(t->model, a->micro, a->chunk), since));
    const double begin = *since;
    const weft_model_input in = {rows.tok, rows.target, rows.start};
    WEFT_TRY(weft_model_forward(t->model, a->micro, a->chunk, &in));
    WEFT_TRY(send(t, a, weft_model_exit(t->model, a->micro, a->chunk)));
    trainer_spend(t, PHASE_FORWARD, since);
    t->stage.seconds[0][a->chunk] += *since - begin;
    return WEFT_OK;
}

static weft_status backward(weft_trainer *t, const weft_pipeline_action *a, double *since) {
    double *passes = weft_model_passes(t->model), loss = 0;
    int64_t count = 0, micro = t->layout.micro_first + a->micro * t->layout.micro_stride;
    WEFT_TRY(receive(t, a, weft_model_gradient(t->model), since));
    const double begin = *since;
    passes[0] = 0; /* of the head, which does both in one */
    WEFT_TRY(weft_model_backward(t->model, a->micro, a->chunk, NULL, &loss, &count));
    WEFT_TRY(send(t, a, weft_model_gradient(t->model)));
    trainer_spend_until(t, PHASE_FORWARD, since, *since + passes[0]);
    trainer_spend(t, PHASE_BACKWARD, since);
    t->stage.seconds[1][a->chunk] += *since - begin;
    if (weft_layout_has_loss(&t->layout)) {
        t->losses[2 * micro] += loss;
        t->losses[2 * micro + 1] += (double)count;
    }
    return WEFT_OK;
}

weft_status trainer_passes(weft_trainer *t, double *since) {
    const weft_pipeline *p = &t->stage.passes;
    const double begin = *since;
    WEFT_TRY_CTX(weft_shards_begin(t->shards, t->c->data.private ? -1 : t->layout.micro_count),
                 "gradient sum");
    weft_loader_at at = {t->st.g, 0};
    for (size_t i = 0; i < p->n; i++) {
        const weft_pipeline_action *a = &p->action[i];
        if (t->c->data.private && !a->backward && at.g != t->st.g) break; /* its share may be less */
        WEFT_TRY(a->backward ? backward(t, a, since) : forward(t, a, &at, since));
    }
    t->stage.spent += *since - begin;
    t->stage.steps++;
    return WEFT_OK;
}

/* --- the bubble --------------------------------------------------------------------------------------------- */

/* times [2][stages * chunks], spent: of the slowest rank of each stage. */
static weft_status gather_times(weft_trainer *t, double *times, size_t parts, double *spent) {
    const weft_layout *l = &t->layout;
    const double passes = (double)(t->stage.steps * l->micro_count);
    for (int c = 0; c < l->chunks; c++)
        for (int d = 0; d < 2; d++)
            times[(size_t)d * parts + (size_t)(c * l->size[WEFT_AXIS_PP] + l->at[WEFT_AXIS_PP])] =
                t->stage.seconds[d][c] / passes;
    *spent = t->stage.spent / (double)t->stage.steps;
    WEFT_TRY(weft_ctrl_allreduce(t->o.group, times, 2 * parts, WEFT_F64, WEFT_MAX));
    return weft_ctrl_allreduce(t->o.group, spent, 1, WEFT_F64, WEFT_MAX);
}

weft_status trainer_bubble(weft_trainer *t) {
    const weft_layout *l = &t->layout;
    const int stages = l->size[WEFT_AXIS_PP];
    const size_t parts = (size_t)stages * (size_t)l->chunks;
    double spent = 0, planned = 0, busy = 0, equal = 0;
    if (stages == 1 || t->stage.steps == 0) return WEFT_OK;
    double *times = weft_calloc(2 * parts, sizeof *times);
    weft_status s = weft_ctrl_agree(t->o.group, times ? WEFT_OK : WEFT_ERR_NOMEM);
    if (s >= 0) s = gather_times(t, times, parts, &spent);
    if (s >= 0) {
        const weft_pipeline_times by = {times, times + parts};
        s = weft_pipeline_play(stages, l->chunks, l->micro_count, &by, &planned, &busy);
    }
    if (s >= 0) s = weft_pipeline_bubble(stages, l->chunks, l->micro_count, &equal);
    if (s >= 0)
        snprintf(
            t->stage.bubble, sizeof t->stage.bubble,
            "%.1f %% of the busiest stage's work; the schedule with the measured passes has %.1f %%, with "
            "equal stages %.1f %%",
            100 * (spent / busy - 1), 100 * (planned / busy - 1), 100 * equal);
    free(times);
    return s;
}
