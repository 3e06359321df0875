/* The pictures of a training run, and the figures above them. */
#include <math.h>
#include <string.h>

#include "io/report/page.h"

static const char *const layers[][3] = {
    /* metric, label, colour; the useful work lies at the bottom */
    {"time/forward", "forward", "s1"}, {"time/backward", "backward", "s2"}, {"time/optim", "optim", "s3"},
    {"time/comm", "comm", "s4"},       {"time/data", "data", "s5"},         {"time/other", "other", "s6"},
};
enum { LAYERS = sizeof layers / sizeof *layers };

static const char *const drawn[] = {"loss/train", "loss/valid", "bpb/valid", "tokens_per_s",
                                    "mfu",        "grad_norm",  "lr"};

int page_has_picture(const char *metric) {
    for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++)
        if (!strcmp(drawn[i], metric)) return 1;
    for (size_t i = 0; i < LAYERS; i++)
        if (!strcmp(layers[i][0], metric)) return 1;
    return 0;
}

static weft_status load(const page *p, const char *name, curve *c) {
    return curve_make(weft_history_find(&p->history, name), p->axis, c);
}

/* ---- the figures above the pictures ---- */

static void figure(FILE *f, const char *name, const char *value, const char *remark) {
    fprintf(f, "<div><dt>%s</dt><dd>%s</dd><dd class=\"r\">%s</dd></div>\n", name, value, remark);
}

static weft_status figure_of(page *p, const char *metric, const char *name, unit u, int median) {
    char value[NUMBER_MAX], low[NUMBER_MAX], remark[NUMBER_MAX + 16] = "";
    curve c;
    WEFT_TRY(load(p, metric, &c));
    if (c.n) {
        double last = c.y[c.n - 1], v = median ? curve_median(&c) : last, min = curve_min(&c);
        if (median)
            snprintf(remark, sizeof remark, "median");
        else if (min < last)
            snprintf(remark, sizeof remark, "lowest %s", number_alone(low, u, min, 4));
        else
            snprintf(remark, sizeof remark, "last, and lowest");
        figure(p->f, name, number_alone(value, u, v, median ? 3 : 4), remark);
    }
    curve_free(&c);
    return WEFT_OK;
}

weft_status page_figures(page *p) {
    const weft_history *h = &p->history;
    char value[NUMBER_MAX], remark[NUMBER_MAX + 16];
    double steps = 0, tokens = 0;
    for (size_t i = 0; i < h->nseries; i++) {
        const weft_series *s = &h->series[i];
        if (!s->n) continue;
        steps = fmax(steps, s->step[s->n - 1]);
        tokens = fmax(tokens, s->tokens[s->n - 1]);
    }
    fputs("<dl class=\"figures\">\n", p->f);
    WEFT_TRY(figure_of(p, "loss/valid", "Validation loss", UNIT_PLAIN, 0));
    WEFT_TRY(figure_of(p, "bpb/valid", "Bits per byte", UNIT_PLAIN, 0));
    if (!weft_history_find(h, "loss/valid"))
        WEFT_TRY(figure_of(p, "loss/train", "Training loss", UNIT_PLAIN, 0));
    number_format whole = number_format_for(UNIT_PLAIN, 1, 1);
    snprintf(remark, sizeof remark, "in %s steps", number_print(value, &whole, steps));
    if (tokens > 0) figure(p->f, "Tokens", number_alone(value, UNIT_PLAIN, tokens, 3), remark);
    if (tokens == 0) figure(p->f, "Steps", number_print(value, &whole, steps), "");
    number_format clock = {UNIT_CLOCK, 1, "", 0};
    figure(p->f, "Time", number_print(value, &clock, p->t1 - p->t0), "first to last record");
    WEFT_TRY(figure_of(p, "tokens_per_s", "Tokens/s", UNIT_PLAIN, 1));
    WEFT_TRY(figure_of(p, "mfu", "MFU", UNIT_PERCENT, 1));
    fputs("</dl>\n", p->f);
    return WEFT_OK;
}

/* ---- pictures ---- */

/* One line says what could not be drawn. */
static void missing(page *p, const char *title, const char *metrics) {
    fprintf(p->f, "<p class=\"missing\">%s: the run recorded no %s.</p>\n", title, metrics);
}

static void note_lowest(chart *c, const curve *v, const char *what) {
    char low[NUMBER_MAX];
    if (v->n)
        snprintf(c->note, sizeof c->note, "lowest %s %s", what, number_alone(low, c->unit, curve_min(v), 4));
}

static void note_median(chart *c, const curve *v) {
    char m[NUMBER_MAX];
    if (v->n) snprintf(c->note, sizeof c->note, "median %s", number_alone(m, c->unit, curve_median(v), 3));
}

static weft_status draw_loss(page *p) {
    chart c = {.title = "Loss", .sub = "nats per token", .wide = 1, .steep = 1, .nlines = 2};
    curve train, valid;
    WEFT_TRY(load(p, "loss/train", &train));
    weft_status s = load(p, "loss/valid", &valid);
    if (s < 0) {
        curve_free(&train);
        return s;
    }
    c.line[0] = (chart_line){"train", "c1", &train, 0};
    c.line[1] = (chart_line){"valid", "c2", &valid, 1};
    note_lowest(&c, valid.n ? &valid : &train, valid.n ? "valid" : "train");
    if (train.n || valid.n)
        chart_draw(p->f, &c, &p->x);
    else
        missing(p, c.title, "loss/train and no loss/valid");
    curve_free(&train);
    curve_free(&valid);
    return WEFT_OK;
}

/* The best of the compressors in run.json "lines" against the model, for the caption. */
static void compare(chart *c, double best) {
    const chart_ref *least = NULL;
    char a[NUMBER_MAX];
    for (int i = 0; i < c->nrefs; i++)
        if (!least || c->ref[i].value < least->value) least = &c->ref[i];
    if (!least || !(least->value > 0)) return;
    number_alone(a, UNIT_PERCENT, fabs(1 - best / least->value), 2);
    snprintf(c->note, sizeof c->note, "lowest %.3f, %s %s than %.40s", best, a,
             best < least->value ? "less" : "more", least->label);
}

static weft_status draw_bits(page *p) {
    chart c = {.title = "Bits per byte", .sub = "validation text", .steep = 1, .nlines = 1};
    curve v;
    const char *name;
    json_t *line;
    WEFT_TRY(load(p, "bpb/valid", &v));
    json_object_foreach(json_object_get(p->run, "lines"), name, line) {
        if (!json_is_number(line) || c.nrefs == CHART_REFS_MAX) continue;
        c.ref[c.nrefs++] = (chart_ref){name, json_number_value(line)};
    }
    c.line[0] = (chart_line){"weft", "c2", &v, 1};
    if (v.n) {
        note_lowest(&c, &v, "");
        compare(&c, curve_min(&v));
        chart_draw(p->f, &c, &p->x);
    } else {
        missing(p, c.title, "bpb/valid");
    }
    curve_free(&v);
    return WEFT_OK;
}

static weft_status draw_one(page *p, const char *metric, chart *c, const char *color) {
    curve v;
    WEFT_TRY(load(p, metric, &v));
    c->nlines = 1;
    c->line[0] = (chart_line){NULL, color, &v, 0};
    if (v.n) {
        if (c->from_zero) note_median(c, &v);
        chart_draw(p->f, c, &p->x);
    } else {
        missing(p, c->title, metric);
    }
    curve_free(&v);
    return WEFT_OK;
}

static weft_status draw_split(page *p) {
    chart_stack c = {
        .title = "Step time", .sub = "by part; share of the step at the end", .unit = UNIT_SECONDS};
    curve part[LAYERS];
    double mean = 0;
    weft_status s = WEFT_OK;
    int loaded = 0;
    for (; loaded < LAYERS; loaded++) {
        s = load(p, layers[loaded][0], &part[loaded]);
        if (s < 0) break;
        if (!part[loaded].n) continue;
        c.label[c.nlayers] = layers[loaded][1];
        c.color[c.nlayers] = layers[loaded][2];
        c.data[c.nlayers++] = &part[loaded];
        double sum = 0;
        for (size_t i = 0; i < part[loaded].n; i++) sum += part[loaded].y[i];
        mean += sum / (double)part[loaded].n;
    }
    if (s == WEFT_OK && c.nlayers) {
        char text[NUMBER_MAX];
        snprintf(c.note, sizeof c.note, "mean %s", number_alone(text, UNIT_SECONDS, mean, 3));
        s = chart_stack_draw(p->f, &c, &p->x);
    } else if (s == WEFT_OK) {
        missing(p, c.title, "time/forward, time/backward, time/optim, time/comm, time/data or time/other");
    }
    while (loaded--) curve_free(&part[loaded]);
    return s;
}

weft_status page_pictures(page *p) {
    fputs("<section class=\"charts\">\n", p->f);
    WEFT_TRY(draw_loss(p));
    WEFT_TRY(draw_bits(p));
    WEFT_TRY(draw_one(p, "tokens_per_s",
                      &(chart){.title = "Throughput", .sub = "tokens per second", .from_zero = 1}, "c1"));
    WEFT_TRY(draw_split(p));
    WEFT_TRY(draw_one(
        p, "mfu",
        &(chart){.title = "MFU", .sub = "model flops over peak flops", .unit = UNIT_PERCENT, .from_zero = 1},
        "c3"));
    WEFT_TRY(draw_one(p, "grad_norm",
                      &(chart){.title = "Gradient norm", .sub = "before clipping", .may_log = 1}, "c4"));
    WEFT_TRY(draw_one(p, "lr", &(chart){.title = "Learning rate", .sub = ""}, "c5"));
    fputs("</section>\n", p->f);
    return WEFT_OK;
}

weft_status page_other_metrics(page *p) {
    enum { SMALL_MAX = 64 };
    const weft_history *h = &p->history;
    int n = 0, left_out = 0;
    for (size_t i = 0; i < h->nseries; i++) {
        curve c;
        if (page_has_picture(h->series[i].name) || page_is_lane(h->series[i].name)) continue;
        if (n == SMALL_MAX) {
            left_out++;
            continue;
        }
        WEFT_TRY(curve_make(&h->series[i], p->axis, &c));
        if (!n++) fputs("<section><h2>Other metrics</h2><div class=\"smalls\">\n", p->f);
        chart_small(p->f, h->series[i].name, &c, &p->x);
        curve_free(&c);
    }
    if (n) fputs("</div>", p->f);
    if (left_out) fprintf(p->f, "<p class=\"missing\">%d more metrics are in metrics.jsonl.</p>", left_out);
    if (n) fputs("</section>\n", p->f);
    return WEFT_OK;
}
