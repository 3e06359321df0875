/* The loop: steps, evaluation, checkpoints, progress, and the ways a run ends. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/report/report.h"
#include "runtime/train/evaluate.h"
#include "runtime/train/generate.h"
#include "runtime/train/internal.h"
#include "runtime/train/session.h"

static void format_time(double seconds, char buf[32]) {
    long s = seconds > 0 ? (long)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(buf, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buf, 32, "%ld:%02ld", s / 60, s % 60);
}

/* mpirun gives every rank a terminal of its own, whatever becomes of the output: only who started it can know
 * (scripts/demo sets WEFT_TERMINAL=1). Without a terminal the line comes every 10 s, with one twice a second in place. */
static int on_terminal(void) {
    const char *told = getenv("WEFT_TERMINAL");
    return told ? !strcmp(told, "1") : isatty(STDOUT_FILENO) && !getenv("OMPI_COMM_WORLD_SIZE");
}

/* What the progress line shows: averages since it was last printed. */
typedef struct meter {
    double printed, loss, seconds, tokens, rate, mfu;
    int64_t steps;
    int terminal;
} meter;

static void show_progress(weft_trainer *t, meter *m, const step_result *r, int last) {
    m->loss += r->loss;
    m->seconds += r->seconds;
    m->tokens += (double)r->tokens;
    m->steps++;
    double now = weft_now();
    if (t->o.quiet || (!last && now - m->printed < (m->terminal ? 0.5 : 10.0))) return;
    double loss = m->loss / (double)m->steps, rate = m->tokens / m->seconds;
    double per_token = weft_model_flops(t->model) / (double)(t->layout.micro_batch * t->context);
    double left = (double)(t->c->train.steps - t->st.step) * m->seconds / (double)m->steps;
    if (t->c->train.time_limit > 0) left = fmin(left, t->c->train.time_limit - t->st.elapsed);
    char eta[32];
    format_time(left, eta);
    printf("%sstep %lld/%lld  loss %.4f  bits/byte %.3f  %.0f tokens/s  MFU %.1f %%  ETA %s%s",
           m->terminal ? "\r" : "", (long long)t->st.step, (long long)t->c->train.steps, loss,
           loss / M_LN2 / t->bytes_per_token, rate, 100 * rate * per_token / t->peak_flops, eta,
           m->terminal ? "  " : "\n");
    if (m->terminal && last) printf("\n");
    fflush(stdout);
    *m = (meter){.printed = now, .terminal = m->terminal};
}

static weft_status record(weft_trainer *t, const step_result *r, int last) {
    if (!t->metrics) return WEFT_OK;
    double rate = (double)r->tokens / r->seconds;
    double per_token = weft_model_flops(t->model) / (double)(t->layout.micro_batch * t->context);
    double other = r->seconds;
    weft_metric_set(t->id_loss, r->loss);
    weft_metric_set(t->id_rate, rate);
    weft_metric_set(t->id_mfu, rate * per_token / t->peak_flops);
    weft_metric_set(t->id_norm, r->norm);
    weft_metric_set(t->id_lr, r->lr);
    for (int i = 0; i < ROUTER_FIGURES && weft_model_desc_of(t->model)->experts; i++)
        weft_metric_set(t->id_router[i], r->router[i]);
    for (int i = 0; i < PHASE_OTHER; i++) {
        weft_metric_set(t->id_phase[i], t->phase[i]);
        other -= t->phase[i];
    }
    weft_metric_set(t->id_phase[PHASE_OTHER], other > 0 ? other : 0);
    trainer_watch_lanes(t, last);
    trainer_watch_power(t, last);
    trainer_outer_record(t);
    weft_status s = weft_metrics_emit(t->metrics, t->st.step, t->st.g, t->st.tokens);
    weft_metric_set(t->id_valid, NAN);
    weft_metric_set(t->id_bpb, NAN);
    return s;
}

void trainer_event(weft_trainer *t, const char *name, const char *json) {
    if (t->metrics && weft_metrics_event(t->metrics, name, json) < 0)
        weft_warn("event not written: %s", weft_last_error());
}

static weft_status measure(weft_trainer *t, int64_t windows, meter *m) {
    if (!t->valid) return WEFT_OK;
    weft_evaluation e;
    const weft_layout *l = &t->layout;
    const weft_evaluate_opts o = {.batch = l->micro_batch,
                                  .context = t->context,
                                  .windows = windows,
                                  .documents = t->c->data.pack,
                                  .shares = l->size[WEFT_AXIS_DP],
                                  .share = l->at[WEFT_AXIS_DP],
                                  .mute = !weft_layout_has_loss(l),
                                  .uncounted = l->at[WEFT_AXIS_CP] > 0,
                                  .together = l->size[WEFT_AXIS_DP] < l->ranks || l->ep > 1 || l->zero > 2,
                                  .pipeline = t->stage.links ? &t->stage.passes : NULL,
                                  .links = t->stage.links};
    WEFT_TRY_CTX(weft_evaluate(t->model, t->valid, t->o.group, &o, &e), "evaluating %s", t->c->data.valid);
    weft_metric_set(t->id_valid, e.loss);
    weft_metric_set(t->id_bpb, e.bits_per_byte);
    if (t->rank == 0 && !t->o.quiet) {
        printf("%sstep %lld  held-out loss %.4f", m->terminal ? "\r" : "", (long long)t->st.step, e.loss);
        if (isfinite(e.bits_per_byte)) printf("  %.4f bits/byte", e.bits_per_byte);
        printf("%40s\n", "");
        fflush(stdout);
    }
    return WEFT_OK;
}

/* It may take longer than other sites wait for a step. */
static weft_status evaluate(weft_trainer *t, int64_t windows, meter *m) {
    trainer_phase(t, WEFT_JOB_EVALUATE);
    if (t->outer.sites) weft_sites_busy(t->outer.sites, 1);
    const weft_status s = measure(t, windows, m);
    trainer_phase(t, WEFT_JOB_STEP);
    if (t->outer.sites) weft_sites_busy(t->outer.sites, 0);
    return s;
}

static weft_status guard_report(weft_trainer *t, const step_result *r) {
    static const char *const why[] = {"", "not finite", "loss spike", "gradient spike"};
    if (r->verdict == WEFT_ACCEPT) return WEFT_OK;
    if (t->rank == 0) {
        char json[256];
        weft_warn("step %lld skipped: %s (loss %.4g, gradient norm %.4g, z %.1f)", (long long)t->st.step,
                  why[r->verdict], r->loss, r->norm, r->z);
        snprintf(json, sizeof json, "\"step\":%lld,\"reason\":\"%s\",\"z\":%.3f", (long long)t->st.step,
                 why[r->verdict], r->z);
        trainer_event(t, "skip", json);
    }
    if (t->st.guard.in_a_row < t->c->optim.give_up) return WEFT_OK;
    return trainer_roll_back(t, why[r->verdict]);
}

static int due(int64_t step, int64_t every) {
    return every > 0 && step % every == 0;
}

static int finished(const weft_trainer *t) {
    return t->st.step >= t->c->train.steps ||
           (t->c->train.time_limit > 0 && t->st.elapsed >= t->c->train.time_limit);
}

/* A rank that holds a part of the model, or cuts its rows, reads all of it from the checkpoint that the run has just
 * written. */
static weft_status generate(weft_trainer *t, const weft_generate_opts *o, weft_generated *r) {
    if (weft_shards_zero(t->shards) < 3 && t->ranks == t->layout.size[WEFT_AXIS_DP] && t->layout.ep == 1 &&
        t->c->layout.pieces <= 1)
        return weft_generate(t->model, t->tok, o, r);
    weft_session s;
    const weft_session_opts so = {.device = trainer_device(t),
                                  .place = t->o.place,
                                  .t = t->c->train.dtype ? WEFT_BF16 : WEFT_F32,
                                  .batch = 1,
                                  .context = t->context,
                                  .threads = t->threads};
    char *latest = weft_path_join(t->checkpoints, "latest");
    weft_status st = latest ? weft_session_open(latest, &so, &s) : WEFT_ERR_NOMEM;
    free(latest);
    if (st < 0) return st;
    st = weft_generate(s.model, t->tok, o, r);
    weft_session_close(&s);
    return st;
}

/* A sample in the model's own words, or NULL. */
static char *sample_text(weft_trainer *t) {
    if (!t->tok || t->c->sample.tokens <= 0) return NULL;
    weft_generate_opts o = {.prompt = t->c->sample.prompt ? t->c->sample.prompt : "",
                            .tokens = t->c->sample.tokens,
                            .temperature = t->c->sample.temperature,
                            .top_k = t->c->sample.top_k,
                            .seed = (uint64_t)t->c->run.seed};
    weft_generated r;
    r.text = NULL;
    if (generate(t, &o, &r) < 0) weft_warn("no sample: %s", weft_last_error());
    return r.text;
}

/* The last record holds the evaluation alone: the step's own figures are written already. */
static void record_evaluation(weft_trainer *t) {
    uint32_t others[] = {t->id_loss, t->id_rate, t->id_mfu, t->id_norm, t->id_lr};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) weft_metric_set(others[i], NAN);
    for (int i = 0; i < PHASES; i++) weft_metric_set(t->id_phase[i], NAN);
    for (int i = 0; i < ROUTER_FIGURES && weft_model_desc_of(t->model)->experts; i++)
        weft_metric_set(t->id_router[i], NAN);
    trainer_watch_lanes(t, 0);
    trainer_watch_power(t, 0);
    if (t->metrics && weft_metrics_emit(t->metrics, t->st.step, t->st.g, t->st.tokens) < 0)
        weft_warn("%s", weft_last_error());
}

/* The last words of a run that ended well: checkpoint, final evaluation, sample, facts for the report. */
static weft_status finish(weft_trainer *t, meter *m) {
    weft_status s = trainer_outer_finish(t);
    if (s != WEFT_OK) return s;
    s = trainer_save_now(t);
    WEFT_TRY(evaluate(t, 0, m));
    WEFT_TRY(trainer_bubble(t));
    WEFT_TRY(trainer_measure_memory(t));
    if (t->rank != 0) return s;
    if (t->stage.bubble[0] && !t->o.quiet) printf("pipeline bubble: %s\n", t->stage.bubble);
    char *sample = sample_text(t);
    if (sample && !t->o.quiet) printf("\n%s\n\n", sample);
    record_evaluation(t);
    trainer_accounts(t, 1);
    trainer_event(t, "end", s >= 0 ? "\"reason\":\"done\"" : "\"reason\":\"unsaved\"");
    if (trainer_write_run_json(t, sample) < 0) weft_warn("run.json: %s", weft_last_error());
    free(sample);
    return s;
}

static void write_report(weft_trainer *t) {
    char path[4096];
    snprintf(path, sizeof path, "%s/report.html", t->dir);
    if (weft_report_write(t->dir, path) < 0) weft_warn("no report: %s", weft_last_error());
}

/* The records of a run that ends before its last step. */
static void end_early(weft_trainer *t, const char *reason) {
    if (t->rank != 0) return;
    char json[64];
    snprintf(json, sizeof json, "\"reason\":\"%s\"", reason);
    trainer_accounts(t, 1);
    trainer_event(t, "end", json);
    if (trainer_write_run_json(t, NULL) < 0) weft_warn("run.json: %s", weft_last_error());
    write_report(t);
}

/* Asked to save and stop. why: of rank 0. */
static weft_status stop(weft_trainer *t, const char *why) {
    if (t->rank == 0)
        weft_info("step %lld: saving, then the end: %s", (long long)t->st.step, why ? why : "asked");
    WEFT_TRY(trainer_save_now(t));
    trainer_outer_drain(t);
    end_early(t, why ? why : "asked");
    return WEFT_OK;
}

static weft_status run_steps(weft_trainer *t, int *outcome) {
    meter m = {.printed = weft_now(), .terminal = on_terminal()};
    *outcome = WEFT_TRAIN_DONE;
    t->began = weft_now() - t->st.elapsed;
    trainer_event(t, "start", NULL);
    if (t->resumed_at > 0) {
        char json[64];
        snprintf(json, sizeof json, "\"step\":%lld", (long long)t->resumed_at);
        trainer_event(t, "resume", json);
    }
    if (t->outer.unjoined) {
        *outcome = WEFT_TRAIN_STOPPED;
        end_early(t, trainer_asked_text(t));
        return WEFT_OK;
    }
    while (!finished(t)) {
        step_result r;
        WEFT_TRY_CTX(trainer_step(t, &r), "step %lld", (long long)t->st.step + 1);
        WEFT_TRY(trainer_trace_step(t));
        trainer_phase(t, WEFT_JOB_STEP);
        const int last = r.stop || finished(t);
        if (t->rank == 0) show_progress(t, &m, &r, last);
        if (due(t->st.step, t->c->eval.every) && !last) WEFT_TRY(evaluate(t, t->c->eval.windows, &m));
        int evaluated = t->valid && due(t->st.step, t->c->eval.every); /* belongs to this step's record */
        if (due(t->st.step, t->c->log.every) || evaluated || last || r.verdict != WEFT_ACCEPT) {
            weft_status s = record(t, &r, last);
            if (s < 0) weft_warn("metrics: %s", weft_last_error());
        }
        weft_status verdict = guard_report(t, &r);
        if (verdict < 0) {
            end_early(t, "diverged");
            return verdict;
        }
        WEFT_TRY(trainer_save_progress(t));
        if (r.stop) {
            *outcome = WEFT_TRAIN_STOPPED;
            return stop(t, r.stop);
        }
        if (trainer_save_due(t) && !finished(t)) WEFT_TRY(trainer_save(t));
    }
    weft_status s = finish(t, &m);
    if (s == WEFT_DROPPED) {
        *outcome = WEFT_TRAIN_STOPPED;
        return stop(t, trainer_asked_text(t));
    }
    if (t->rank == 0) write_report(t);
    return s;
}

weft_status weft_trainer_run(weft_trainer *t, int *outcome) {
    const weft_status s = run_steps(t, outcome);
    if (s >= 0 || s == WEFT_ERR_DIVERGED)
        trainer_phase(t, WEFT_JOB_END); /* mpirun ends the ranks with the first that ends */
    if (s >= 0 || s == WEFT_ERR_DIVERGED) trainer_trace_end(t); /* all ranks are here */
    return s;
}
