/* A run over several sites: the rounds that this site was in, and the accounts of all sites. From the events "outer"
 * {"step","fragment","mode","lag","seconds"} and "site" {"site","active","joins","leaves","rounds","tokens","steps","bytes",
 * "loss","presence"}, of which the last of every site counts, and the metrics sites/waited, sites/sent, sites/received. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/report/page.h"

enum { SITES_MAX = 64, MODES = 3 };

static const char *const modes[MODES] = {"merge", "rebase", "replace"};

typedef struct accounts {
    size_t nrounds, mode[MODES];
    chart_bar *bar;  /* seconds of a round */
    double *seconds; /* the same, of merged ones */
    size_t nseconds, nsites;
    json_t *site[SITES_MAX];
} accounts;

static double number_of(const json_t *event, const char *key) {
    const json_t *v = json_object_get(event, key);
    return json_is_number(v) ? json_number_value(v) : (double)NAN;
}

static const char *name_of(const json_t *event) {
    const char *name = json_string_value(json_object_get(event, "site"));
    return name ? name : "";
}

/* The newest account of a site takes the place of the one before. */
static void take_site(accounts *a, json_t *tree) {
    size_t i = 0;
    while (i < a->nsites && strcmp(name_of(a->site[i]), name_of(tree)) != 0) i++;
    if (i == SITES_MAX) return;
    if (i == a->nsites)
        a->nsites++;
    else
        json_decref(a->site[i]);
    a->site[i] = json_incref(tree);
}

static void take_round(accounts *a, const weft_event *e, const json_t *tree, double t0) {
    const char *mode = json_string_value(json_object_get(tree, "mode"));
    const double seconds = number_of(tree, "seconds");
    for (int k = 0; mode && k < MODES; k++) a->mode[k] += !strcmp(mode, modes[k]);
    const int merged = mode && !strcmp(mode, modes[0]);
    a->bar[a->nrounds++] = (chart_bar){e->t - t0, merged ? fmax(seconds, 0) : (double)NAN};
    if (merged && isfinite(seconds)) a->seconds[a->nseconds++] = seconds;
}

static weft_status collect(const page *p, accounts *a) {
    const weft_history *h = &p->history;
    a->bar = weft_calloc(h->nevents + 1, sizeof *a->bar);
    a->seconds = weft_calloc(h->nevents + 1, sizeof *a->seconds);
    if (!a->bar || !a->seconds) return WEFT_ERR_NOMEM;
    for (size_t i = 0; i < h->nevents; i++) {
        const weft_event *e = &h->event[i];
        const int is_round = !strcmp(e->name, "outer"), is_site = !strcmp(e->name, "site");
        if (!is_round && !is_site) continue;
        json_t *tree = json_loads(e->json, JSON_ALLOW_NUL, NULL);
        if (is_round)
            take_round(a, e, tree, p->t0);
        else if (name_of(tree)[0])
            take_site(a, tree);
        json_decref(tree);
    }
    return WEFT_OK;
}

/* ---- the picture ---- */

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds for which the training waited for other sites. The gauge begins anew with every start of the run. */
static double waited(const weft_history *h) {
    const weft_series *s = weft_history_find(h, "sites/waited");
    double sum = 0, last = 0;
    for (size_t i = 0; s && i < s->n; i++) {
        if (s->value[i] < last) sum += last;
        last = s->value[i];
    }
    return s ? sum + last : (double)NAN;
}

static void draw(page *p, accounts *a) {
    char median[NUMBER_MAX], share[NUMBER_MAX];
    chart_bars c = {.title = "Rounds with other sites",
                    .sub = "seconds from leaving to commit, over wall time",
                    .unit = UNIT_SECONDS,
                    .bar = a->bar,
                    .n = a->nrounds};
    const double stood = waited(&p->history), all = p->t1 - p->t0;
    qsort(a->seconds, a->nseconds, sizeof *a->seconds, ascending);
    int n = snprintf(c.note, sizeof c.note, "%zu merged, %zu without this site, %zu replaced", a->mode[0],
                     a->mode[1], a->mode[2]);
    if (a->nseconds)
        n += snprintf(c.note + n, sizeof c.note - (size_t)n, "; median %s",
                      number_alone(median, UNIT_SECONDS, a->seconds[a->nseconds / 2], 3));
    if (all > 0 && isfinite(stood))
        snprintf(c.note + n, sizeof c.note - (size_t)n, "; utilisation %s",
                 number_alone(share, UNIT_PERCENT, fmax(1 - stood / all, 0), 3));
    chart_bars_draw(p->f, &c, all);
}

/* ---- the table ---- */

static void cell(FILE *f, unit u, double v, int digits) {
    char text[NUMBER_MAX];
    fprintf(f, "<td class=\"n\">%s</td>", isfinite(v) ? number_alone(text, u, v, digits) : "");
}

static void table(page *p, const accounts *a) {
    double all = 0;
    for (size_t i = 0; i < a->nsites; i++) all += fmax(number_of(a->site[i], "tokens"), 0);
    fputs("<details open=\"open\"><summary>Sites, as the hub's log has them</summary><div class=\"card "
          "wide\"><table "
          "class=\"dense\">\n<tr><th>site</th><td>now</td><td class=\"n\">joins</td><td "
          "class=\"n\">leaves</td><td "
          "class=\"n\">present</td><td class=\"n\">rounds</td><td class=\"n\">steps</td><td "
          "class=\"n\">tokens</td><td "
          "class=\"n\">of all</td><td class=\"n\">bytes sent up</td><td class=\"n\">loss</td></tr>\n",
          p->f);
    for (size_t i = 0; i < a->nsites; i++) {
        const json_t *s = a->site[i];
        const double tokens = number_of(s, "tokens");
        fputs("<tr><th>", p->f);
        html_string(p->f, name_of(s));
        fprintf(p->f, "</th><td>%s</td>", json_is_true(json_object_get(s, "active")) ? "active" : "away");
        cell(p->f, UNIT_PLAIN, number_of(s, "joins"), 6);
        cell(p->f, UNIT_PLAIN, number_of(s, "leaves"), 6);
        cell(p->f, UNIT_PERCENT, number_of(s, "presence"), 3);
        cell(p->f, UNIT_PLAIN, number_of(s, "rounds"), 6);
        cell(p->f, UNIT_PLAIN, number_of(s, "steps"), 6);
        cell(p->f, UNIT_PLAIN, tokens, 4);
        cell(p->f, UNIT_PERCENT, all > 0 ? tokens / all : (double)NAN, 3);
        cell(p->f, UNIT_PLAIN, number_of(s, "bytes"), 4);
        cell(p->f, UNIT_PLAIN, number_of(s, "loss"), 4);
        fputs("</tr>\n", p->f);
    }
    fputs("</table></div></details>\n", p->f);
}

weft_status page_sites(page *p) {
    accounts a = {0};
    const weft_status status = collect(p, &a);
    if (status >= 0 && (a.nrounds || a.nsites)) {
        fputs("<section>\n", p->f);
        if (a.nrounds) draw(p, &a);
        if (a.nsites) table(p, &a);
        fputs("</section>\n", p->f);
    }
    for (size_t i = 0; i < a.nsites; i++) json_decref(a.site[i]);
    free(a.bar);
    free(a.seconds);
    return status;
}
