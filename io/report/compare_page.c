/* The page of a comparison: the same pictures as a report's, one line a run. */
#include <math.h>
#include <string.h>

#include "io/report/compare.h"
#include "io/report/page.h"

static const char *const colors[COMPARE_RUNS_MAX] = {"c1", "c2", "c3", "c4", "c5", "c6"};

/* ---- pictures ---- */

enum { LABEL_CHARACTERS = 14, LABEL_BYTES = 4 * LABEL_CHARACTERS + 4 }; /* what fits beside a picture */

static const char *short_name(const char *name, char label[LABEL_BYTES]) {
    int n = 0;
    size_t i = 0;
    for (; name[i]; i++)
        if (((unsigned char)name[i] & 0xc0) != 0x80 && n++ == LABEL_CHARACTERS) break;
    memcpy(label, name, i);
    strcpy(label + i, name[i] ? "\xe2\x80\xa6" : "");
    return label;
}

typedef struct picture {
    chart c;
    chart_x x;
} picture;

static void add_line(picture *p, int run, const char *name, const curve *v, int dots) {
    if (!v->n) return;
    p->c.line[p->c.nlines++] = (chart_line){name, colors[run], v, dots};
    p->x.hi = fmax(p->x.hi, v->x[v->n - 1]);
}

static void draw(FILE *f, picture *p, const char *missing) {
    if (p->c.nlines)
        chart_draw(f, &p->c, &p->x);
    else
        fprintf(f, "<p class=\"missing\">%s: no run recorded %s.</p>\n", p->c.title, missing);
}

static void pictures(FILE *f, const weft_compare *c) {
    char label[COMPARE_RUNS_MAX][LABEL_BYTES];
    picture loss = {.c = {.title = "Training loss", .sub = "nats per token", .wide = 1, .steep = 1},
                    .x = {0, 1, "tokens"}};
    picture held = {.c = {.title = "Held-out loss", .sub = "nats per token", .steep = 1},
                    .x = {0, 1, "tokens"}};
    picture time = {.c = {.title = "Training loss over time", .sub = "nats per token", .steep = 1},
                    .x = {0, 1, "seconds"}};
    picture speed = {.c = {.title = "Throughput", .sub = "tokens per second", .from_zero = 1},
                     .x = {0, 1, "tokens"}};
    for (int i = 0; i < c->nruns; i++) {
        const compare_run *r = &c->run[i];
        const char *name = short_name(r->name, label[i]);
        add_line(&loss, i, name, &r->loss, 0);
        add_line(&held, i, name, &r->held_out, 1);
        add_line(&time, i, name, &r->loss_s, 0);
        add_line(&speed, i, name, &r->speed, 0);
    }
    fputs("<section class=\"charts\" style=\"margin-top:32px\">\n", f);
    draw(f, &loss, "loss/train");
    draw(f, &held, "loss/valid");
    draw(f, &time, "loss/train");
    draw(f, &speed, "tokens_per_s");
    fputs("</section>\n", f);
}

/* ---- tables ---- */

static void number_cell(FILE *f, unit u, double v, int digits) {
    char text[NUMBER_MAX];
    fprintf(f, "<td class=\"n\">%s</td>", isfinite(v) ? number_alone(text, u, v, digits) : "");
}

static void head_row(FILE *f, const weft_compare *c, const char *first) {
    fprintf(f, "<tr><th>%s</th>", first);
    for (int i = 0; i < c->nruns; i++) {
        fprintf(f, "<td class=\"n\"><b style=\"color:var(--%s)\">", colors[i]);
        html_string(f, c->run[i].name);
        fputs("</b></td>", f);
    }
    fputs("</tr>\n", f);
}

/* A row of one member of compare_run, which lies `at` bytes from its beginning. */
static void row(FILE *f, const weft_compare *c, const char *name, unit u, int digits, size_t at) {
    fprintf(f, "<tr><th>%s</th>", name);
    for (int i = 0; i < c->nruns; i++) {
        double v;
        memcpy(&v, (const char *)&c->run[i] + at, sizeof v);
        number_cell(f, u, v, digits);
    }
    fputs("</tr>\n", f);
}
#define ROW(name, u, digits, member) row(f, c, name, u, digits, offsetof(compare_run, member))

static void figures(FILE *f, const weft_compare *c) {
    char name[NUMBER_MAX + 64], text[NUMBER_MAX];
    fputs("<section><h2>Figures</h2><div class=\"card wide\"><table>\n", f);
    head_row(f, c, "");
    ROW("steps", UNIT_PLAIN, 6, steps);
    ROW("tokens", UNIT_PLAIN, 3, tokens);
    ROW("seconds of training", UNIT_SECONDS, 4, seconds);
    ROW("tokens/s, median", UNIT_PLAIN, 3, rate);
    ROW("MFU, median", UNIT_PERCENT, 3, mfu);
    ROW("training loss at the end", UNIT_PLAIN, 4, train);
    ROW("held-out loss, last", UNIT_PLAIN, 4, valid);
    ROW("held-out loss, lowest", UNIT_PLAIN, 4, best_valid);
    ROW("bits per byte, last", UNIT_PLAIN, 4, bpb);
    for (size_t k = 0; k < COMPARE_AT; k++) {
        snprintf(name, sizeof name, "training loss after %s tokens",
                 number_alone(text, UNIT_PLAIN, c->at_tokens[k], 3));
        row(f, c, name, UNIT_PLAIN, 4, offsetof(compare_run, train_at) + k * sizeof(double));
    }
    snprintf(name, sizeof name, "held-out loss after %s tokens",
             number_alone(text, UNIT_PLAIN, c->at_tokens[COMPARE_AT - 1], 3));
    ROW(name, UNIT_PLAIN, 4, valid_at);
    if (isfinite(c->target)) {
        snprintf(name, sizeof name, "seconds to training loss %s",
                 number_alone(text, UNIT_PLAIN, c->target, 4));
        ROW(name, UNIT_SECONDS, 4, reach_s);
        ROW("tokens to it", UNIT_PLAIN, 3, reach_tokens);
    }
    fputs("</table></div></section>\n", f);
}

static void differences(FILE *f, const weft_compare *c) {
    fputs("<section><h2>Configuration</h2>\n", f);
    if (!c->nkeys) {
        fputs("<p class=\"missing\">No differences but names and directories.</p></section>\n", f);
        return;
    }
    fputs("<div class=\"card wide\"><table>\n", f);
    head_row(f, c, "what differs");
    for (size_t k = 0; k < c->nkeys; k++) {
        fputs("<tr><th>", f);
        html_string(f, c->key[k].key);
        fputs("</th>", f);
        for (int i = 0; i < c->nruns; i++) {
            fputs("<td class=\"n\">", f);
            html_string(f, c->key[k].value[i] ? c->key[k].value[i] : "");
            fputs("</td>", f);
        }
        fputs("</tr>\n", f);
    }
    fputs("</table></div></section>\n", f);
}

static weft_status body(FILE *f, void *arg) {
    const weft_compare *c = arg;
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, "
          "initial-scale=1\"/>\n<title>Comparison</title>\n",
          f);
    fprintf(f, "<style>\n%s</style>\n</head>\n<body>\n<header><h1>", report_style);
    for (int i = 0; i < c->nruns; i++) {
        if (i) fputs(" <span class=\"missing\">and</span> ", f);
        html_string(f, c->run[i].name);
    }
    fputs("</h1>\n", f);
    for (int i = 0; i < c->nruns; i++) {
        fprintf(f, "<p class=\"fact\"><span style=\"color:var(--%s)\">run %d</span> <code>", colors[i],
                i + 1);
        html_string(f, c->run[i].dir);
        fputs("</code></p>\n", f);
    }
    fputs("</header>\n<main>\n", f);
    pictures(f, c);
    figures(f, c);
    differences(f, c);
    fputs("</main>\n<footer>A training loss at some tokens is the mean of the records in the last 2 % of "
          "them. Seconds "
          "are of training: pauses between the processes of a run do not count.</footer>\n</body>\n</html>\n",
          f);
    return WEFT_OK;
}

weft_status weft_compare_write(const weft_compare *c, const char *out) {
    weft_compare copy = *c;
    return page_write(out, body, &copy);
}
