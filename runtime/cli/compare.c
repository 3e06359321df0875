/* weft compare: runs held against each other, as a table, JSON or a page. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/report/compare.h"
#include "io/report/text.h"
#include "runtime/cli/cli.h"

enum { OPT_JSON = 1000, OPT_HTML };

typedef struct arguments {
    const char *dir[COMPARE_RUNS_MAX], *html;
    int n, json;
} arguments;

static const struct argp_option options[] = {
    {"json", OPT_JSON, 0, 0, "print one JSON object", 0},
    {"html", OPT_HTML, "FILE", 0, "write a page with the curves over each other", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case OPT_JSON: a->json = 1; return 0;
    case OPT_HTML: a->html = arg; return 0;
    case ARGP_KEY_ARG:
        if (a->n == COMPARE_RUNS_MAX)
            argp_error(state, "at most %d runs: '%s' is one more", COMPARE_RUNS_MAX, arg);
        a->dir[a->n++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->n < 2) argp_error(state, "which runs? At least two");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options,
    parse,
    "RUN RUN [RUN...]",
    "Holds up to 6 runs against each other: losses at the end and after equally many tokens, speed, seconds "
    "to the loss "
    "that all of them reached, and the keys of their configurations that differ.\v"
    "Example:\n  weft compare runs/adamw runs/muon --html compare.html",
    0,
    0,
    0};

/* ---- the table ---- */

enum { COLUMN = 24 };

static const struct {
    const char *name, *key; /* for people, for JSON */
    unit u;
    int digits, relative; /* relative: the change against the first run is said */
    size_t at;            /* in compare_run */
} rows[] = {
    {"steps", "steps", UNIT_PLAIN, 6, 0, offsetof(compare_run, steps)},
    {"tokens", "tokens", UNIT_PLAIN, 3, 0, offsetof(compare_run, tokens)},
    {"seconds of training", "seconds", UNIT_PLAIN, 4, 1, offsetof(compare_run, seconds)},
    {"tokens/s, median", "tokens_per_s", UNIT_PLAIN, 4, 1, offsetof(compare_run, rate)},
    {"MFU, median", "mfu", UNIT_PERCENT, 3, 1, offsetof(compare_run, mfu)},
    {"training loss, end", "loss_train", UNIT_PLAIN, 4, 1, offsetof(compare_run, train)},
    {"held-out loss, last", "loss_valid", UNIT_PLAIN, 4, 1, offsetof(compare_run, valid)},
    {"held-out loss, lowest", "loss_valid_lowest", UNIT_PLAIN, 4, 1, offsetof(compare_run, best_valid)},
    {"bits per byte, last", "bits_per_byte", UNIT_PLAIN, 4, 1, offsetof(compare_run, bpb)},
};
enum { ROWS = sizeof rows / sizeof *rows };

static double value_of(const compare_run *r, size_t at) {
    double v;
    memcpy(&v, (const char *)r + at, sizeof v);
    return v;
}

/* Width in columns: bytes that do not continue a character. */
static int columns(const char *s) {
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void padded(const char *s, int width, int right) {
    const int gap = width - columns(s);
    if (right) printf("%*s", gap > 0 ? gap : 0, "");
    fputs(s, stdout);
    if (!right) printf("%*s", gap > 0 ? gap : 0, "");
}

/* At most `most` characters of s. */
static void shorten(char *s, int most) {
    int n = 0;
    for (char *p = s; *p; p++)
        if (((unsigned char)*p & 0xc0) != 0x80 && n++ == most) {
            *p = 0;
            return;
        }
}

static void print_row(const weft_compare *c, const char *name, unit u, int digits, int relative, size_t at) {
    padded(name, 26, 0);
    const double first = value_of(&c->run[0], at);
    for (int i = 0; i < c->nruns; i++) {
        char cell[NUMBER_MAX + 32] = "-", number[NUMBER_MAX];
        const double v = value_of(&c->run[i], at);
        if (isfinite(v)) {
            number_alone(number, u, v, digits);
            if (relative && i && isfinite(first) && first > 0)
                snprintf(cell, sizeof cell, "%s (%+.1f %%)", number, 100 * (v / first - 1));
            else
                snprintf(cell, sizeof cell, "%s", number);
        }
        padded(cell, COLUMN, 1);
    }
    puts("");
}

static void print_table(const weft_compare *c) {
    char name[128], text[NUMBER_MAX];
    padded("", 26, 0);
    for (int i = 0; i < c->nruns; i++) {
        snprintf(name, sizeof name, "%s", c->run[i].name);
        shorten(name, COLUMN - 2);
        padded(name, COLUMN, 1);
    }
    puts("");
    for (int i = 0; i < ROWS; i++)
        print_row(c, rows[i].name, rows[i].u, rows[i].digits, rows[i].relative, rows[i].at);
    puts("After equally many tokens");
    for (size_t k = 0; k < COMPARE_AT; k++) {
        snprintf(name, sizeof name, "  training, %s", number_alone(text, UNIT_PLAIN, c->at_tokens[k], 3));
        print_row(c, name, UNIT_PLAIN, 4, 1, offsetof(compare_run, train_at) + k * sizeof(double));
    }
    snprintf(name, sizeof name, "  held out, %s",
             number_alone(text, UNIT_PLAIN, c->at_tokens[COMPARE_AT - 1], 3));
    print_row(c, name, UNIT_PLAIN, 4, 1, offsetof(compare_run, valid_at));
    if (isfinite(c->target)) {
        printf("To training loss %s, which all reached\n", number_alone(text, UNIT_PLAIN, c->target, 4));
        print_row(c, "  seconds", UNIT_PLAIN, 4, 1, offsetof(compare_run, reach_s));
        print_row(c, "  tokens", UNIT_PLAIN, 3, 1, offsetof(compare_run, reach_tokens));
    }
    puts(c->nkeys ? "Configuration, where it differs" : "Configuration: no differences");
    for (size_t k = 0; k < c->nkeys; k++) {
        snprintf(name, sizeof name, "  %s", c->key[k].key);
        padded(name, 26, 0);
        for (int i = 0; i < c->nruns; i++) {
            snprintf(name, sizeof name, "%.100s", c->key[k].value[i] ? c->key[k].value[i] : "-");
            shorten(name, COLUMN - 2);
            padded(name, COLUMN, 1);
        }
        puts("");
    }
}

/* ---- JSON ---- */

static json_t *run_json(const compare_run *r) {
    json_t *j = json_object(), *at = json_array();
    json_object_set_new(j, "dir", cli_json_text(r->dir));
    json_object_set_new(j, "name", cli_json_text(r->name));
    for (int i = 0; i < ROWS; i++)
        json_object_set_new(j, rows[i].key, cli_json_number(value_of(r, rows[i].at)));
    for (int k = 0; k < COMPARE_AT; k++) json_array_append_new(at, cli_json_number(r->train_at[k]));
    json_object_set_new(j, "loss_train_at", at);
    json_object_set_new(j, "loss_valid_at", cli_json_number(r->valid_at));
    json_object_set_new(j, "seconds_to_target", cli_json_number(r->reach_s));
    json_object_set_new(j, "tokens_to_target", cli_json_number(r->reach_tokens));
    return j;
}

static json_t *compare_json(const weft_compare *c) {
    json_t *j = json_object(), *runs = json_array(), *at = json_array(), *keys = json_object();
    for (int i = 0; i < c->nruns; i++) json_array_append_new(runs, run_json(&c->run[i]));
    for (int k = 0; k < COMPARE_AT; k++) json_array_append_new(at, cli_json_number(c->at_tokens[k]));
    for (size_t k = 0; k < c->nkeys; k++) {
        json_t *values = json_array();
        for (int i = 0; i < c->nruns; i++)
            json_array_append_new(values,
                                  c->key[k].value[i] ? cli_json_text(c->key[k].value[i]) : json_null());
        json_object_set_new(keys, c->key[k].key, values);
    }
    json_object_set_new(j, "runs", runs);
    json_object_set_new(j, "at_tokens", at);
    json_object_set_new(j, "target_loss", cli_json_number(c->target));
    json_object_set_new(j, "config", keys);
    return j;
}

int cli_compare(int argc, char **argv) {
    arguments a = {0};
    weft_compare c;
    cli_parse(&argp, argc, argv, &a);
    weft_status s = weft_compare_read(a.dir, a.n, &c);
    if (s < 0) return cli_fail(s);
    int rc = 0;
    if (a.json)
        rc = cli_json_print(compare_json(&c));
    else
        print_table(&c);
    if (a.html && (s = weft_compare_write(&c, a.html)) < 0) rc = cli_fail(s);
    if (a.html && s >= 0 && !a.json) printf("%s\n", a.html);
    weft_compare_free(&c);
    return rc;
}
