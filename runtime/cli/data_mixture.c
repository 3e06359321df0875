/* weft data info RUN.yaml: the sources that a run file mixes, and how often the run will have read each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/dataset/mixture.h"
#include "runtime/cli/data.h"
#include "runtime/train/run_config.h"
#include "runtime/train/weights.h"

int data_is_run_file(const char *path) {
    const size_t n = strlen(path);
    return (n > 5 && !strcmp(path + n - 5, ".yaml")) || (n > 4 && !strcmp(path + n - 4, ".yml"));
}

static void print_source(const weft_run_config *c, const weft_data *d, size_t i, double share, uint64_t drawn,
                         int json) {
    weft_source_facts f;
    const char *name = weft_data_source_name(d, i);
    if (weft_data_facts(d, i, &f) < 0) { /* at another site */
        weft_clear_error();
        memset(&f, 0, sizeof f);
    }
    const double epochs = f.windows ? (double)drawn / (double)f.windows : 0;
    if (json) {
        json_t *j = json_pack("{s:s, s:f, s:I, s:I, s:I, s:I}", "name", name, "share", share, "tokens",
                              (json_int_t)f.tokens, "docs", (json_int_t)f.docs, "windows",
                              (json_int_t)f.windows, "samples", (json_int_t)drawn);
        json_object_set_new(j, "epochs", f.windows ? json_real(epochs) : json_null());
        cli_json_print(j);
        return;
    }
    printf("%s\n  share         %.3f %% of the samples, %llu in %lld steps of %lld\n", name, 100 * share,
           (unsigned long long)drawn, (long long)c->train.steps, (long long)c->train.batch);
    if (f.windows)
        printf("  holds         %llu tokens in %llu documents, %llu windows\n  epochs        %.3f\n",
               (unsigned long long)f.tokens, (unsigned long long)f.docs, (unsigned long long)f.windows,
               epochs);
    else
        printf("  holds         nothing that can be read here\n");
}

static weft_status print_all(const weft_run_config *c, const weft_mixture *m, int json) {
    weft_data *d = NULL;
    uint64_t *drawn = weft_calloc(m->n, sizeof *drawn);
    double all = 0;
    weft_status s = drawn ? WEFT_OK : WEFT_ERR_NOMEM;
    int64_t context = c->train.context ? c->train.context : c->model.context;
    if (s >= 0 && !c->train.context && c->model.from) {
        weft_model_desc desc;
        s = weft_weights_describe(c->model.from, NULL, &desc, NULL);
        if (s >= 0) context = desc.context;
    }
    if (s >= 0) s = weft_data_open(m->spec, m->n, context, (uint64_t)c->run.seed, 0, &d);
    for (size_t i = 0; i < m->n; i++) all += m->spec[i].weight;
    if (s >= 0) weft_data_drawn(d, (uint64_t)c->train.steps * (uint64_t)c->train.batch, drawn);
    for (size_t i = 0; s >= 0 && i < m->n; i++)
        print_source(c, d, i, m->spec[i].weight / all, drawn[i], json);
    if (d) weft_data_close(d);
    free(drawn);
    return s;
}

weft_status data_print_mixture(const char *path, int json) {
    weft_run_config c;
    weft_config *config = NULL;
    weft_mixture m = {0};
    WEFT_TRY(weft_run_config_load(path, NULL, 0, &c, &config));
    const char *site = c.data.site ? c.data.site : getenv("WEFT_SITE");
    weft_status s;
    if (!c.data.sources.n && !c.data.train.n)
        s = weft_fail(WEFT_ERR_CONFIG, "%s names neither data.train nor data.sources", path);
    else if (c.data.sources.n)
        s = weft_mixture_parse(c.data.sources.item, c.data.sources.n, &m);
    else
        s = weft_mixture_single("main", c.data.train.item, c.data.train.n, &m);
    if (s >= 0 && c.data.private && site) s = weft_mixture_at(&m, site); /* else one who may read all asks */
    if (s >= 0) s = weft_mixture_expand(&m);
    if (s >= 0) s = print_all(&c, &m, json);
    weft_mixture_free(&m);
    weft_config_destroy(config);
    return s;
}
