/* The start-up table: what will run, on what, with how much memory, and where it is written. Printed for
 * people, and kept as run.json for the report. */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "runtime/model/mirror.h"
#include "runtime/train/internal.h"

/* One row; the tables are [{"name", "rows": [[label, value], ...]}, ...]. */
static void row(json_t *rows, const char *label, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void row(json_t *rows, const char *label, const char *fmt, ...) {
    char value[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(value, sizeof value, fmt, ap);
    va_end(ap);
    json_array_append_new(rows, json_pack("[s, s]", label, value));
}

static json_t *table(json_t *tables, const char *name) {
    json_t *rows = json_array();
    json_array_append_new(tables, json_pack("{s:s, s:o}", "name", name, "rows", rows));
    return rows;
}

/* "12.3 M" */
static const char *si(double v, char buf[32]) {
    const char *const unit[] = {"", " k", " M", " G", " T", " P"};
    int u = 0;
    while (v >= 1000 && u < 5) {
        v /= 1000;
        u++;
    }
    snprintf(buf, 32, v >= 100 || u == 0 ? "%.0f%s" : v >= 10 ? "%.1f%s" : "%.2f%s", v, unit[u]);
    return buf;
}

static const char *mib(size_t bytes, char buf[32]) {
    snprintf(buf, 32, "%.1f MiB", (double)bytes / 1048576);
    return buf;
}

static void model_table(const weft_trainer *t, json_t *tables) {
    const weft_model_desc *d = weft_model_desc_of(t->model);
    char a[32], b[32];
    json_t *r = table(tables, "Model");
    row(r, "family", "%s%s%s", weft_family_title(d), t->c->model.from ? ", from " : ", fresh",
        t->c->model.from ? t->c->model.from : "");
    row(r, "parameters", "%s (%zu)", si((double)weft_model_params(t->model)->count, a),
        weft_model_params(t->model)->count);
    row(r, "layers", "%lld x (hidden %lld, heads %lld/%lld x %lld, ffn %lld)", (long long)d->layers,
        (long long)d->hidden, (long long)d->heads, (long long)d->kv_heads, (long long)d->head_dim,
        (long long)d->ffn);
    if (d->experts)
        row(r, "experts", "%lld a layer, %lld a token; balance loss %g, z-loss %g", (long long)d->experts,
            (long long)d->experts_per_token, d->router_balance, d->router_z);
    row(r, "vocabulary", "%lld (padded %lld), head %s", (long long)d->vocab, (long long)d->vocab_padded,
        d->tied ? "tied" : "its own");
    row(r, "compute type", "%s", t->c->train.dtype ? "bf16, fp32 masters and gradients" : "fp32");
    row(r, "flops per token", "%s forward and backward",
        si(weft_model_flops(t->model) / (double)(t->layout.micro_batch * t->context), b));
}

static void run_table(const weft_trainer *t, json_t *tables) {
    const weft_run_config *c = t->c;
    static const char *const optims[] = {"AdamW", "Muon (hidden matrices) and AdamW"};
    static const char *const schedules[] = {"cosine", "linear", "warmup-stable-decay", "constant"};
    char layout[128];
    json_t *r = table(tables, "Run");
    weft_layout_text(&t->layout, layout, sizeof layout);
    row(r, "layout", "%s; %d thread%s a rank", layout, t->threads, t->threads == 1 ? "" : "s");
    if (t->layout.size[WEFT_AXIS_PP] > 1) {
        char text[512];
        trainer_pipeline_text(t, text, sizeof text);
        row(r, "pipeline", "%s", text);
    }
    row(r, "batch", "%lld sequences x %lld tokens = %lld micro-batches of %lld", (long long)t->layout.batch,
        (long long)t->context, (long long)t->layout.micro_total, (long long)t->layout.micro_batch);
    if (c->train.time_limit > 0)
        row(r, "length", "%lld steps or %.0f s, whichever is first", (long long)c->train.steps,
            c->train.time_limit);
    else
        row(r, "length", "%lld steps", (long long)c->train.steps);
    if (t->resumed_at) row(r, "resumed at", "step %lld", (long long)t->resumed_at);
    row(r, "optimiser", "%s, lr %g to %g, %s", optims[c->optim.kind], c->optim.lr, c->optim.min_lr,
        schedules[c->optim.schedule]);
    row(r, "gradient sum", "%s",
        c->train.reproducible ? "one fixed tree (reproducible)" : "in order per rank, tree over ranks");
    row(r, "seed", "%lld", (long long)c->run.seed);
}

static void data_table(const weft_trainer *t, json_t *tables) {
    const weft_shard_info *i = weft_data_info(t->data);
    char a[32], b[32];
    json_t *r = table(tables, "Data");
    row(r, "training", "%s tokens, %s bytes, %s", si((double)i->tokens, a), si((double)i->source_bytes, b),
        trainer_data_name(t));
    double per_epoch = (double)weft_data_windows(t->data, 0), all = 0;
    const size_t sources = weft_data_sources(t->data);
    if (sources == 1)
        row(r, "one epoch", "%.0f samples, %.1f steps", per_epoch, per_epoch / (double)t->layout.batch);
    for (size_t s = 0; s < sources; s++) all += t->weights[s];
    for (size_t s = 0; s < sources && sources > 1; s++) {
        const double windows = (double)weft_data_windows(t->data, s), share = t->weights[s] / all;
        row(r, weft_data_source_name(t->data, s),
            "%.2f %% of the samples; one epoch %.0f samples, %.1f steps", 100 * share, windows,
            windows / share / (double)t->layout.batch);
    }
    if (t->c->data.private)
        row(r, "private", "each site reads its own sources; this one is at %s", trainer_site(t));
    if (t->c->data.pack) row(r, "packing", "documents kept apart: %s of them", si((double)i->docs, a));
    if (i->masked)
        row(r, "loss mask", "%.1f %% of the tokens count", 100 * (double)i->targets / (double)i->tokens);
    if (t->valid) {
        const weft_shard_info *v = weft_data_info(t->valid);
        row(r, "held out", "%s tokens, %s bytes, %s", si((double)v->tokens, a),
            si((double)v->source_bytes, b), t->c->data.valid);
    }
    if (t->tok)
        row(r, "tokenizer", "byte-level BPE, %u ids, %.2f bytes per token, %s", weft_tok_vocab(t->tok),
            t->bytes_per_token, t->c->data.tokenizer);
    else
        row(r, "tokenizer", "%s",
            i->tokenizer ? "not given: no samples, no export of it" : "none (synthetic data)");
}

static void memory_table(const weft_trainer *t, json_t *tables) {
    char a[32];
    weft_backend_desc d;
    json_t *r = table(tables, "Memory of a rank");
    for (int i = 0; i < t->memory.nparts; i++)
        row(r, t->memory.part[i].name, "%s", mib(t->memory.part[i].bytes, a));
    row(r, "planned in all", "%s", mib(t->memory.bytes + t->memory.outside, a));
    if (weft_backend_info(t->backend, &d) < 0 || !d.device) return;
    char b[32], c[32];
    row(r, "of that", "%s on the GPU, which has %s; %s on the host", mib(t->memory.bytes + t->scratch, a),
        mib(d.memory, b), mib(t->memory.outside - t->scratch, c));
}

static void machine_table(const weft_trainer *t, json_t *tables) {
    weft_backend_desc d;
    char a[32], host[256] = "?";
    gethostname(host, sizeof host - 1);
    json_t *r = table(tables, "Machine");
    if (weft_backend_info(t->backend, &d) >= 0) {
        if (d.device)
            row(r, "GPU", "%s (number %d here), %d multiprocessors", d.model, d.index, d.cores);
        else
            row(r, "processor", "%s, %d cores allowed", d.model, d.cores);
        row(r, "kernels", "%s (%s)", d.name, d.isa);
    }
    row(r, "measured peak", "%sflop/s %s, all ranks", si(t->peak_flops, a),
        t->c->train.dtype ? "bf16" : "fp32");
    row(r, "host of rank 0", "%s", host);
}

static void files_table(const weft_trainer *t, json_t *tables) {
    json_t *r = table(tables, "Written to");
    row(r, "metrics", "%s/metrics.jsonl", t->dir);
    row(r, "checkpoints", "%s", t->checkpoints);
    row(r, "report", "%s/report.html", t->dir);
}

static json_t *tables_of(const weft_trainer *t) {
    json_t *tables = json_array();
    model_table(t, tables);
    run_table(t, tables);
    data_table(t, tables);
    memory_table(t, tables);
    machine_table(t, tables);
    files_table(t, tables);
    return tables;
}

static void print_tables(const json_t *tables) {
    for (size_t i = 0; i < json_array_size(tables); i++) {
        const json_t *rows = json_object_get(json_array_get(tables, i), "rows");
        printf("%s\n", json_string_value(json_object_get(json_array_get(tables, i), "name")));
        for (size_t k = 0; k < json_array_size(rows); k++) {
            const json_t *r = json_array_get(rows, k);
            printf("  %-18s %s\n", json_string_value(json_array_get(r, 0)),
                   json_string_value(json_array_get(r, 1)));
        }
    }
    fflush(stdout);
}

static weft_status read_baselines(const weft_trainer *t, json_t **j) {
    char *text = NULL;
    size_t n = 0;
    json_error_t e;
    *j = json_object();
    if (!t->c->data.baselines) return WEFT_OK;
    WEFT_TRY_CTX(weft_file_read(t->c->data.baselines, 1 << 20, &text, &n), "data.baselines");
    json_decref(*j);
    *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    free(text);
    if (json_is_object(*j)) return WEFT_OK;
    weft_status s =
        weft_fail(WEFT_ERR_FORMAT, "data.baselines %s:%d:%d: %s", t->c->data.baselines, *j ? 1 : e.line,
                  *j ? 1 : e.column, *j ? "not an object of names and bits per byte" : e.text);
    json_decref(*j);
    *j = NULL;
    return s;
}

double trainer_resident(void) {
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    double kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Pss: %lf", &kib) == 1) break;
    if (f) fclose(f);
    return kib * 1024;
}

weft_status trainer_measure_memory(weft_trainer *t) {
    double v[2] = {(double)(t->memory.bytes + t->memory.outside), trainer_resident() - t->resident};
    WEFT_TRY(weft_ctrl_allreduce(t->o.group, v, 2, WEFT_F64, WEFT_SUM));
    t->planned = v[0];
    t->taken = v[1] > 0 ? v[1] : 0;
    return WEFT_OK;
}

/* Text as JSON: what is no UTF-8 (the end of a sample, bytes of a path) becomes U+FFFD. */
static json_t *json_text(const char *text) {
    size_t n = strlen(text), k = 0;
    char *out = weft_calloc(3 * n + 1, 1);
    for (size_t i = 0; out && i < n;) {
        size_t len = 4;
        json_t *whole = NULL;
        while (len && !(i + len <= n && (whole = json_stringn(text + i, len)))) len--;
        memcpy(out + k, len ? text + i : "\xEF\xBF\xBD", len ? len : 3);
        k += len ? len : 3;
        i += len ? len : 1;
        json_decref(whole);
    }
    json_t *j = out ? json_stringn(out, k) : NULL;
    free(out);
    return j;
}

weft_status trainer_write_run_json(weft_trainer *t, const char *sample) {
    json_t *lines = NULL;
    WEFT_TRY(read_baselines(t, &lines));
    json_t *tables = tables_of(t);
    if (t->st.step) {
        char a[32], planned[32];
        json_t *r = table(tables, "Measured");
        row(r, "memory of all ranks", "%s taken for training%s; %s planned", mib((size_t)t->taken, a),
            weft_backend_apart(t->backend) ? " on the hosts" : "", mib((size_t)t->planned, planned));
        row(r, "training time", "%.1f s", t->st.elapsed);
        if (t->stage.bubble[0]) row(r, "pipeline bubble", "%s", t->stage.bubble);
        row(r, "tokens", "%s", si((double)t->st.tokens, a));
        row(r, "updates skipped by the guard", "%lld", (long long)t->st.guard.skipped);
    }
    json_t *j = json_pack("{s:s, s:o, s:f, s:o, s:o, s:[]}", "title", t->c->run.name, "command",
                          json_text(t->o.command ? t->o.command : ""), "started", weft_wall() - t->st.elapsed,
                          "tables", tables, "lines", lines, "samples");
    if (sample) json_array_append_new(json_object_get(j, "samples"), json_text(sample));
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    char *path = weft_path_join(t->dir, "run.json");
    weft_status s = text && path ? weft_file_write(path, text, strlen(text)) : WEFT_ERR_NOMEM;
    json_decref(j);
    free(text);
    free(path);
    return s;
}

/* Measures the peak with all ranks at once, prints the table, writes run.json. Collective. */
weft_status trainer_startup(weft_trainer *t) {
    WEFT_TRY(weft_ctrl_barrier(t->o.group));
    WEFT_TRY(t->ops->probe_fma(t->x, t->c->train.dtype ? WEFT_BF16 : WEFT_F32, 0.1, &t->peak_flops));
    WEFT_TRY(weft_ctrl_allreduce(t->o.group, &t->peak_flops, 1, WEFT_F64, WEFT_SUM));
    weft_status s = WEFT_OK;
    if (t->rank == 0) {
        if (!t->o.quiet) {
            json_t *tables = tables_of(t);
            print_tables(tables);
            json_decref(tables);
        }
        s = trainer_write_run_json(t, NULL);
    }
    return weft_ctrl_agree(t->o.group, s);
}
