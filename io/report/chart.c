/* Charts; see chart.h.
 *
 * The drawing is a 2000 x 1000 box that the browser stretches (preserveAspectRatio="none"); strokes keep
 * their width by vector-effect, and a point is a line of no length with round ends, which stays round.
 * Coordinates are integers: finer than a pixel, and half the size of the file. Labels of lines stand at their
 * right ends, moved apart where they would overlap. */
#include "io/report/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { W = 2000, H = 1000 };

/* ---- scales ---- */

typedef struct scale {
    double x0, x1, y0, y1;
    int log;
} scale;

static int px(const scale *s, double x) {
    double v = s->x1 > s->x0 ? (x - s->x0) / (s->x1 - s->x0) : 0.5;
    return (int)lround(fmin(fmax(v, -0.01), 1.01) * W);
}

/* 0 at the top, 1 at the bottom; values far outside are kept near, so that coordinates stay small. */
static double fraction(const scale *s, double y) {
    double v = s->log ? log(fmax(y, 1e-300) / s->y0) / log(s->y1 / s->y0) : (y - s->y0) / (s->y1 - s->y0);
    return 1 - fmin(fmax(v, -0.5), 1.5);
}

static int py(const scale *s, double y) {
    return (int)lround(fraction(s, y) * H);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The vertical range: everything, unless a few values make all others flat; those lie outside, and the
 * caption says so. `steep`: the beginning of a falling curve may lie outside as well. */
static void choose_range(scale *s, double *v, size_t n, int from_zero, int may_log, int steep) {
    s->y0 = 0;
    s->y1 = 1;
    s->log = 0;
    if (n == 0) return;
    qsort(v, n, sizeof *v, ascending);
    double lo = v[0], hi = v[n - 1];
    double low = v[n / 100], high = v[n - 1 - n / (steep ? 30 : 100)];
    s->log = may_log && lo > 0 && hi / lo > 20;
    if (!s->log && high > low) {
        double room = (steep ? 0.5 : 3) * (high - low);
        if (hi > high + room) hi = high + (high - low) / 4;
        if (lo < low - room) lo = low - (high - low) / 4;
    }
    if (from_zero && lo >= 0) lo = 0;
    if (s->log) {
        s->y0 = lo / 1.1;
        s->y1 = hi * 1.1;
        return;
    }
    double pad = hi > lo ? 0.04 * (hi - lo) : hi != 0 ? 0.1 * fabs(hi) : 1;
    s->y0 = from_zero && lo == 0 ? 0 : lo - pad;
    s->y1 = hi + pad;
}

/* ---- labels at the right end ---- */

typedef struct label {
    double at; /* 0 top .. 1 bottom */
    const char *text, *color;
    char value[NUMBER_MAX];
} label;

static int by_place(const void *a, const void *b) {
    double x = ((const label *)a)->at, y = ((const label *)b)->at;
    return (x > y) - (x < y);
}

static void draw_labels(FILE *f, label *l, int n, double gap) {
    qsort(l, (size_t)n, sizeof *l, by_place);
    for (int i = 0; i < n; i++) l[i].at = fmin(fmax(l[i].at, 0), 1);
    for (int i = 1; i < n; i++) l[i].at = fmax(l[i].at, l[i - 1].at + gap);
    for (int i = n - 1; i >= 0; i--) l[i].at = fmin(l[i].at, i == n - 1 ? 1 + gap / 4 : l[i + 1].at - gap);
    for (int i = 0; i < n; i++) {
        fprintf(f, "<span class=\"l %s\" style=\"top:%.1f%%\">", l[i].color, 100 * l[i].at);
        html_string(f, l[i].text);
        if (l[i].value[0]) fprintf(f, " <b>%s</b>", l[i].value);
        fputs("</span>", f);
    }
}

/* ---- the frame: caption, grid, axes ---- */

/* s: to tell which of the values, from lo to hi, lie outside the picture; NULL: none do. */
static void open_figure(FILE *f, const char *class, const char *title, const char *sub, const char *note,
                        unit u, const scale *s, double lo, double hi) {
    char text[NUMBER_MAX];
    fprintf(f, "<figure class=\"%s\"><figcaption><b>%s</b> <span>%s</span>", class, title, sub);
    fputs("<em>", f);
    html_string(f, note);
    if (s && hi > s->y1)
        fprintf(f, "%s highest %s, above the picture", *note ? ";" : "", number_alone(text, u, hi, 3));
    if (s && lo < s->y0)
        fprintf(f, "%s lowest %s, below the picture", *note ? ";" : "", number_alone(text, u, lo, 3));
    fputs("</em>", f);
    fputs("</figcaption>\n<div class=\"plot\">", f);
}

static void open_svg(FILE *f, const char *title) {
    fprintf(f, "<svg viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"%s\">\n", W,
            H, title);
}

static ticks vertical_ticks(const scale *s, unit u) {
    return s->log ? ticks_log(u, s->y0, s->y1) : ticks_linear(u, s->y0, s->y1, 5);
}

static void draw_grid(FILE *f, const scale *s, unit u) {
    ticks ty = vertical_ticks(s, u);
    fputs("<path class=\"grid\" d=\"", f);
    for (int i = 0; i < ty.n; i++) fprintf(f, "M0 %dh%d", py(s, ty.at[i]), W);
    fputs("\"/>\n", f);
}

/* The words at the axes, behind the drawing. */
static void draw_axes(FILE *f, const scale *s, unit u, const char *xname, unit xunit, int wide) {
    char text[NUMBER_MAX];
    ticks ty = vertical_ticks(s, u);
    ticks tx = ticks_linear(xunit, s->x0, s->x1, wide ? 8 : 5);
    if (tx.n > 1 && tx.n % 2 == 0) tx.n--; /* so that the last one is shown where every second is hidden */
    fputs("</svg>\n", f);
    for (int i = 0; i < ty.n; i++)
        fprintf(f, "<i class=\"y\" style=\"top:%.1f%%\">%s</i>", 100 * fraction(s, ty.at[i]),
                number_print(text, &ty.format, ty.at[i]));
    for (int i = 0; i < tx.n; i++)
        fprintf(f, "<i class=\"x%s\" style=\"left:%.1f%%\">%s</i>", i % 2 ? " odd" : "",
                px(s, tx.at[i]) * 100.0 / W, number_print(text, &tx.format, tx.at[i]));
    fprintf(f, "<i class=\"xn\">%s</i>\n", xname);
}

/* ---- lines ---- */

static void draw_path(FILE *f, const scale *s, const char *class, const double *x, const double *y, int n) {
    fprintf(f, "<path class=\"%s\" d=\"", class);
    for (int i = 0; i < n; i++)
        fprintf(f, "%s%d %d", i == 0 ? "M" : i == 1 ? "L" : " ", px(s, x[i]), py(s, y[i]));
    fputs("\"/>\n", f);
}

/* The area between two lines over the same x. */
static void draw_area(FILE *f, const scale *s, const char *class, const double *x, const double *lo,
                      const double *hi, int n) {
    if (n == 0) return;
    fprintf(f, "<path class=\"%s\" d=\"M", class);
    for (int i = 0; i < n; i++) fprintf(f, "%d %d ", px(s, x[i]), py(s, hi[i]));
    for (int i = n - 1; i >= 0; i--) fprintf(f, "%d %d%s", px(s, x[i]), py(s, lo[i]), i ? " " : "z\"/>\n");
}

static void draw_line(FILE *f, const scale *s, const chart_line *l, const bins *b) {
    char class[32];
    if (b->n == 0) return;
    if (b->merged) {
        snprintf(class, sizeof class, "band %s", l->color);
        draw_area(f, s, class, b->x, b->lo, b->hi, b->n);
    }
    snprintf(class, sizeof class, "line %s", l->color);
    draw_path(f, s, class, b->x, b->mean, b->n);
    if ((l->dots && b->n <= 60) || b->n == 1) {
        fprintf(f, "<path class=\"dots %s\" d=\"", l->color);
        for (int i = 0; i < b->n; i++) fprintf(f, "M%d %dh0", px(s, b->x[i]), py(s, b->mean[i]));
        fputs("\"/>\n", f);
    }
}

void chart_draw(FILE *f, const chart *c, const chart_x *x) {
    static const double gap_of[] = {0.065,
                                    0.055}; /* one line of text, in heights of the plot: normal, wide */
    bins b[CHART_LINES_MAX];
    double range[2 * BINS * CHART_LINES_MAX + CHART_REFS_MAX];
    label labels[CHART_LINES_MAX + CHART_REFS_MAX];
    scale s = {.x0 = x->lo, .x1 = x->hi};
    size_t n = 0;
    int nlabels = 0;
    for (int i = 0; i < c->nlines; i++) {
        bins_make(c->line[i].data, x->lo, x->hi, BINS, &b[i]);
        for (int k = 0; k < b[i].n; k++) {
            range[n++] = b[i].lo[k];
            range[n++] = b[i].hi[k];
        }
    }
    for (int i = 0; i < c->nrefs; i++) range[n++] = c->ref[i].value;
    choose_range(&s, range, n, c->from_zero, c->may_log, c->steep);

    open_figure(f, c->wide ? "chart wide" : "chart", c->title, c->sub, c->note, c->unit, n ? &s : NULL,
                n ? range[0] : 0, n ? range[n - 1] : 0);
    open_svg(f, c->title);
    draw_grid(f, &s, c->unit);
    for (int i = 0; i < c->nrefs; i++)
        fprintf(f, "<path class=\"ref\" d=\"M0 %dh%d\"/>\n", py(&s, c->ref[i].value), W);
    for (int i = 0; i < c->nlines; i++) draw_line(f, &s, &c->line[i], &b[i]);
    draw_axes(f, &s, c->unit, x->name, UNIT_PLAIN, c->wide);
    for (int i = 0; i < c->nlines; i++) {
        if (!b[i].n) continue;
        double last = b[i].mean[b[i].n - 1];
        label *l = &labels[nlabels++];
        *l = (label){fraction(&s, last), c->line[i].label ? c->line[i].label : "", c->line[i].color, ""};
        number_alone(l->value, c->unit, c->line[i].data->y[c->line[i].data->n - 1],
                     c->unit == UNIT_PLAIN ? 4 : 3);
    }
    for (int i = 0; i < c->nrefs; i++) {
        label *l = &labels[nlabels++];
        *l = (label){fraction(&s, c->ref[i].value), c->ref[i].label, "cref", ""};
        number_alone(l->value, c->unit, c->ref[i].value, 4);
    }
    draw_labels(f, labels, nlabels, gap_of[c->wide != 0]);
    fputs("</div></figure>\n", f);
}

/* ---- stacked layers ---- */

typedef struct stack {
    int n;
    double x[BINS], sum[CHART_LAYERS_MAX + 1][BINS]; /* sum[k]: top of layer k - 1 */
} stack;

/* Sums of the layers in bins of equal width. A layer that was not recorded in a bin counts as zero there. */
static void make_stack(const chart_stack *c, const chart_x *x, stack *s) {
    double count[BINS] = {0};
    size_t most = 0;
    for (int k = 0; k < c->nlayers; k++)
        if (c->data[k]->n > most) most = c->data[k]->n;
    int nbins = most < BINS ? (most > 0 ? (int)most : 1) : BINS;
    memset(s, 0, sizeof *s);
    double width = x->hi > x->lo ? x->hi - x->lo : 1;
    for (int k = 0; k < c->nlayers; k++) {
        double records[BINS] = {0};
        for (size_t i = 0; i < c->data[k]->n; i++) {
            int at = (int)((c->data[k]->x[i] - x->lo) / width * nbins);
            if (at < 0 || at > nbins) continue;
            if (at == nbins) at--;
            s->sum[k + 1][at] += c->data[k]->y[i];
            records[at]++;
        }
        for (int i = 0; i < nbins; i++) count[i] = fmax(count[i], records[i]);
    }
    for (int i = 0; i < nbins; i++) {
        if (count[i] == 0) continue;
        s->x[s->n] = x->lo + (i + 0.5) * width / nbins;
        double top = 0;
        for (int k = 1; k <= c->nlayers; k++) s->sum[k][s->n] = top += s->sum[k][i] / count[i];
        s->sum[0][s->n++] = 0;
    }
    if (s->n > 1) { /* the outer bins reach to the first and the last record */
        s->x[0] -= 0.5 * width / nbins;
        s->x[s->n - 1] += 0.5 * width / nbins;
    }
}

weft_status chart_stack_draw(FILE *f, const chart_stack *c, const chart_x *x) {
    label labels[CHART_LAYERS_MAX];
    double range[BINS];
    char class[32];
    stack *s = weft_calloc(1, sizeof *s);
    if (!s) return WEFT_ERR_NOMEM;
    make_stack(c, x, s);
    if (s->n == 0) { /* nothing within the range of x */
        free(s);
        return WEFT_OK;
    }
    memcpy(range, s->sum[c->nlayers], sizeof range);
    scale sc = {.x0 = x->lo, .x1 = x->hi};
    choose_range(&sc, range, (size_t)s->n, 1, 0, 0);
    open_figure(f, "chart", c->title, c->sub, c->note, c->unit, &sc, range[0], range[s->n - 1]);
    open_svg(f, c->title);
    int tail = s->n > 20 ? s->n / 20 : 1; /* the labels give the shares of the last twentieth */
    double total = 0;
    for (int i = s->n - tail; i < s->n; i++) total += s->sum[c->nlayers][i];
    for (int k = 0; k < c->nlayers; k++) {
        snprintf(class, sizeof class, "layer %s", c->color[k]);
        draw_area(f, &sc, class, s->x, s->sum[k], s->sum[k + 1], s->n);
        double lower = 0, upper = 0;
        for (int i = s->n - tail; i < s->n; i++) lower += s->sum[k][i], upper += s->sum[k + 1][i];
        labels[k] = (label){fraction(&sc, (lower + upper) / 2 / tail), c->label[k], c->color[k], ""};
        double share = total > 0 ? (upper - lower) / total : 0;
        number_format percent = number_format_for(UNIT_PERCENT, 1, share < 0.0995 ? 0.001 : 0.01);
        number_print(labels[k].value, &percent, share);
    }
    draw_grid(f, &sc, c->unit); /* over the areas, which would hide it */
    draw_axes(f, &sc, c->unit, x->name, UNIT_PLAIN, 0);
    draw_labels(f, labels, c->nlayers, 0.075);
    fputs("</div></figure>\n", f);
    free(s);
    return WEFT_OK;
}

/* ---- small pictures and lanes ---- */

void chart_small(FILE *f, const char *name, const curve *c, const chart_x *x) {
    bins b;
    double range[2 * BINS];
    char text[NUMBER_MAX];
    size_t n = 0;
    scale s = {.x0 = x->lo, .x1 = x->hi};
    bins_make(c, x->lo, x->hi, 100, &b);
    for (int i = 0; i < b.n; i++) range[n++] = b.lo[i], range[n++] = b.hi[i];
    if (n == 0) return;
    choose_range(&s, range, n, 0, 0, 0);
    fputs("<div class=\"small\"><p>", f);
    html_string(f, name);
    fprintf(f, " <b>%s</b></p><div class=\"plot\">", number_alone(text, UNIT_PLAIN, c->y[c->n - 1], 4));
    fprintf(f, "<svg viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"", W, H);
    html_string(f, name);
    fputs("\">\n", f);
    draw_line(f, &s, &(chart_line){NULL, "c1", c, 0}, &b);
    fputs("</svg></div><p class=\"range\">", f);
    fprintf(f, "%s", number_alone(text, UNIT_PLAIN, range[0], 4));
    fprintf(f, " to %s</p></div>\n", number_alone(text, UNIT_PLAIN, range[n - 1], 4));
}

void chart_lanes(FILE *f, const char *title, const char *sub, const char *const *lane, int nlanes,
                 const chart_mark *mark, size_t nmarks, double seconds) {
    char text[NUMBER_MAX];
    scale s = {.x0 = 0, .x1 = seconds > 0 ? seconds : 1, .y0 = 0, .y1 = 1};
    open_figure(f, "chart wide lanes", title, sub, "", UNIT_PLAIN, NULL, 0, 0);
    fprintf(f, "<div class=\"tall\" style=\"height:%dpx\"></div>", 26 * nlanes);
    open_svg(f, title);
    fputs("<path class=\"grid\" d=\"", f);
    for (int i = 0; i < nlanes; i++) fprintf(f, "M0 %dh%d", (2 * i + 1) * H / (2 * nlanes), W);
    fputs("\"/>\n", f);
    for (int i = 0; i < nlanes; i++) {
        int before = -1;
        fprintf(f, "<path class=\"dots c%d\" d=\"", i % 5 + 1);
        for (size_t k = 0; k < nmarks; k++) {
            int at = px(&s, mark[k].t);
            if (mark[k].lane != i || at == before) continue; /* two in one place are one dot */
            fprintf(f, "M%d %dh0", before = at, (2 * i + 1) * H / (2 * nlanes));
        }
        fputs("\"/>\n", f);
    }
    fputs("</svg>\n", f);
    for (int i = 0; i < nlanes; i++) {
        fprintf(f, "<i class=\"y\" style=\"top:%.1f%%\">", (2 * i + 1) * 50.0 / nlanes);
        html_string(f, lane[i]);
        fputs("</i>", f);
    }
    ticks tx = ticks_linear(UNIT_CLOCK, s.x0, s.x1, 8);
    for (int i = 0; i < tx.n; i++)
        fprintf(f, "<i class=\"x%s\" style=\"left:%.1f%%\">%s</i>", i % 2 ? " odd" : "",
                px(&s, tx.at[i]) * 100.0 / W, number_print(text, &tx.format, tx.at[i]));
    fputs("<i class=\"xn\">time</i></div></figure>\n", f);
}

/* ---- bars ---- */

void chart_bars_draw(FILE *f, const chart_bars *c, double seconds) {
    scale s = {.x0 = 0, .x1 = seconds > 0 ? seconds : 1, .y0 = 0, .y1 = 0};
    char text[NUMBER_MAX];
    for (size_t i = 0; i < c->n; i++) s.y1 = fmax(s.y1, 1.1 * c->bar[i].value); /* fmax skips what failed */
    if (!(s.y1 > 0)) s.y1 = 1;
    open_figure(f, "chart wide bars", c->title, c->sub, c->note, c->unit, NULL, 0, 0);
    open_svg(f, c->title);
    draw_grid(f, &s, c->unit);
    fputs("<path class=\"bars c1\" d=\"", f);
    for (size_t i = 0; i < c->n; i++)
        if (isfinite(c->bar[i].value))
            fprintf(f, "M%d %dV%d", px(&s, c->bar[i].t), H, py(&s, c->bar[i].value));
    fputs("\"/>\n<path class=\"failed\" d=\"", f);
    for (size_t i = 0; i < c->n; i++)
        if (!isfinite(c->bar[i].value)) fprintf(f, "M%d %dV0", px(&s, c->bar[i].t), H);
    fputs("\"/>\n</svg>\n", f);
    ticks ty = ticks_linear(c->unit, s.y0, s.y1, 4), tx = ticks_linear(UNIT_CLOCK, s.x0, s.x1, 8);
    for (int i = 0; i < ty.n; i++)
        fprintf(f, "<i class=\"y\" style=\"top:%.1f%%\">%s</i>", 100 * fraction(&s, ty.at[i]),
                number_print(text, &ty.format, ty.at[i]));
    for (int i = 0; i < tx.n; i++)
        fprintf(f, "<i class=\"x%s\" style=\"left:%.1f%%\">%s</i>", i % 2 ? " odd" : "",
                px(&s, tx.at[i]) * 100.0 / W, number_print(text, &tx.format, tx.at[i]));
    fputs("<i class=\"xn\">time</i></div></figure>\n", f);
}
