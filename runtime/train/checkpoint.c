/* What a training run saves; see checkpoint.h. */
#include "runtime/train/checkpoint.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "comm/ctrl.h"
#include "io/checkpoint/dir.h"
#include "io/checkpoint/reader.h"
#include "io/exchange/hf.h"
#include "runtime/train/weights.h"

#define VERSION 1

typedef struct parts { /* with their names */
    weft_ckpt_part *item;
    char (*name)[WEFT_CKPT_NAME_MAX];
    size_t n, names;
} parts;

struct weft_saver {
    weft_group *g;
    weft_saver_opts o;
    char *dir, *tokenizer;
    weft_ckpt *ckpt;
    parts save;
};

/* --- the state text ------------------------------------------------------------------------------------------------ */

static json_t *track(const weft_guard_track *t) {
    return json_pack("{s:f, s:f}", "mean", t->mean, "var", t->var);
}

static char *state_text(const weft_saver *s, const weft_train_state *st, const char *stream) {
    json_t *j = json_pack(
        "{s:i, s:I, s:I, s:I, s:I, s:f, s:{s:I, s:I, s:s}, s:s, s:s, s:{s:I, s:I, s:I, s:o, s:o}}", "version",
        VERSION, "step", (json_int_t)st->step, "g", (json_int_t)st->g, "tokens", (json_int_t)st->tokens,
        "updates", (json_int_t)st->updates, "elapsed_s", st->elapsed, "kernels", "contract",
        (json_int_t)st->contract, "bf16_order", (json_int_t)st->bf16_order, "by", st->arithmetic, "data",
        stream, "config", s->o.config, "guard", "accepted", (json_int_t)st->guard.accepted, "skipped",
        (json_int_t)st->guard.skipped, "in_a_row", (json_int_t)st->guard.in_a_row, "loss",
        track(&st->guard.loss), "norm", track(&st->guard.norm));
    char *sites = s->o.sites ? weft_sites_state(s->o.sites) : NULL;
    if (sites) json_object_set_new(j, "sites", json_string(sites));
    free(sites);
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(j);
    return text;
}

/* What the state says of other sites, once their tensors are loaded. */
static weft_status restore_sites(const weft_saver *s, const char *text) {
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const char *state = json_string_value(json_object_get(j, "sites"));
    const weft_status r =
        state ? weft_sites_restore(s->o.sites, state)
              : weft_fail(WEFT_ERR_FORMAT, "the checkpoint does not say which rounds its outer "
                                           "weights have seen");
    json_decref(j);
    return r;
}

static weft_status parse_state(const char *where, const char *text, weft_train_state *st, char **stream) {
    json_error_t e;
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    if (!j) return weft_fail(WEFT_ERR_FORMAT, "%s: the state is not JSON: %s", where, e.text);
    json_int_t version = 0, step, g, tokens, updates, accepted, skipped, row, contract = 0, order = 0;
    const char *data, *by = "";
    double elapsed;
    weft_guard *q = &st->guard;
    int bad = json_unpack_ex(j, &e, 0,
                             "{s:I, s:I, s:I, s:I, s:I, s:F, s?{s:I, s:I, s?s}, s:s, s:{s:I, s:I, s:I, "
                             "s:{s:F, s:F}, s:{s:F, s:F}}}",
                             "version", &version, "step", &step, "g", &g, "tokens", &tokens, "updates",
                             &updates, "elapsed_s", &elapsed, "kernels", "contract", &contract, "bf16_order",
                             &order, "by", &by, "data", &data, "guard", "accepted", &accepted, "skipped",
                             &skipped, "in_a_row", &row, "loss", "mean", &q->loss.mean, "var", &q->loss.var,
                             "norm", "mean", &q->norm.mean, "var", &q->norm.var);
    weft_status s = WEFT_OK;
    if (version > VERSION)
        s = weft_fail(WEFT_ERR_VERSION, "%s: a training state of version %lld; this weft reads up to %d",
                      where, (long long)version, VERSION);
    else if (bad || step < 0 || g < 0 || tokens < 0 || updates < 0)
        s = weft_fail(WEFT_ERR_FORMAT, "%s holds no training state: %s", where,
                      bad ? e.text : "a negative count");
    else if (!(*stream = weft_strdup(data)))
        s = WEFT_ERR_NOMEM;
    if (s >= 0) {
        st->step = step;
        st->g = (uint64_t)g;
        st->tokens = (uint64_t)tokens;
        st->updates = updates;
        st->elapsed = elapsed;
        st->contract = (uint32_t)contract;
        st->bf16_order = (uint32_t)order;
        snprintf(st->arithmetic, sizeof st->arithmetic, "%s", by);
        q->accepted = accepted;
        q->skipped = skipped;
        q->in_a_row = row;
    }
    json_decref(j);
    return s;
}

/* --- the parts ------------------------------------------------------------------------------------------------------ */

static void add(parts *p, const char *room, const weft_piece *q, weft_dtype t, void *ptr) {
    char *name = p->name[p->names++];
    snprintf(name, sizeof *p->name, "%s/%s", room, q->param->name);
    p->n += weft_piece_parts(q, name, t, ptr, &p->item[p->n]);
}

static void free_parts(parts *p) {
    free(p->item);
    free(p->name);
    memset(p, 0, sizeof *p);
}

static void add_sites(parts *p, const weft_sites_array *a, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char *name = p->name[p->names++];
        snprintf(name, sizeof *p->name, "%s", a[i].name);
        p->item[p->n++] = (weft_ckpt_part){
            .name = name, .dtype = WEFT_F32, .ndim = 1, .shape = {(int64_t)a[i].n}, .ptr = a[i].ptr};
    }
}

/* masters: the room of the fp32 masters. weights: also the weights in their own type. copies: also the table that the last
 * stage of a pipeline has of the first one's. sites: also the outer state. */
static weft_status make_parts(const weft_saver *s, const char *masters, int weights, int copies, int sites,
                              parts *p) {
    const weft_params *w = weft_model_params(s->o.model);
    weft_optim_tensor *list = NULL;
    size_t n = 0, pieces = 0, narrays = 0;
    const weft_sites_array *arrays = sites && s->o.sites ? weft_sites_arrays(s->o.sites, &narrays) : NULL;
    const weft_piece *q = weft_shards_pieces(s->o.shards, &pieces);
    memset(p, 0, sizeof *p);
    WEFT_TRY(weft_optim_state(s->o.optim, &list, &n));
    p->item = weft_calloc(WEFT_PIECE_PARTS * (2 * pieces + n) + narrays, sizeof *p->item);
    p->name = weft_calloc(2 * pieces + n + narrays, sizeof *p->name);
    if (!p->item || !p->name) {
        free(list);
        free_parts(p);
        return WEFT_ERR_NOMEM;
    }
    for (size_t i = 0; i < pieces; i++) {
        const weft_share *h = weft_shards_share(s->o.shards, q[i].unit);
        if (!copies && w->unit[q[i].unit].role == WEFT_UNIT_TABLE) continue;
        add(p, masters, &q[i], WEFT_F32, h->master + q[i].at);
        if (weights) add(p, "model", &q[i], s->o.t, (char *)h->weight + q[i].at * weft_dtype_size(s->o.t));
    }
    for (size_t i = 0; i < n; i++) {
        char room[32];
        if (!copies && w->unit[list[i].piece->unit].role == WEFT_UNIT_TABLE) continue;
        snprintf(room, sizeof room, "optim/%s", list[i].slot);
        add(p, room, list[i].piece, WEFT_F32, list[i].ptr);
    }
    add_sites(p, arrays, narrays);
    free(list);
    return WEFT_OK;
}

/* --- open and save ---------------------------------------------------------------------------------------------------- */

/* Between the host and parts that are a device's; those of other sites' state are the host's on any. */
static weft_status fetch(void *s, void *to, const void *part, size_t bytes) {
    return weft_shards_copy(s, to, part, bytes);
}
static weft_status store(void *s, void *part, const void *from, size_t bytes) {
    return weft_shards_copy(s, part, from, bytes);
}

static weft_status describe(void *arg, const char *dir) {
    const weft_saver *s = arg;
    return weft_hf_describe(dir, weft_model_desc_of(s->o.model), s->o.t, s->tokenizer);
}

weft_status weft_saver_open(weft_group *g, const char *dir, const weft_saver_opts *o, weft_saver **out) {
    *out = NULL;
    weft_saver *s = weft_calloc(1, sizeof *s);
    weft_status st = s ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s) {
        const int own = o->t != WEFT_F32;
        s->g = g;
        s->o = *o;
        s->o.ckpt.size = sizeof s->o.ckpt;
        s->o.ckpt.extra = describe;
        s->o.ckpt.extra_arg = s;
        s->o.ckpt.fetch = weft_shards_apart(o->shards) ? fetch : NULL;
        s->o.ckpt.fetch_arg = o->shards;
        s->dir = weft_strdup(dir);
        if (o->tokenizer) s->tokenizer = weft_weights_home(o->tokenizer);
        st = s->dir && (s->tokenizer || !o->tokenizer)
                 ? make_parts(s, own ? "optim/master" : "model", own, 0, 1, &s->save)
                 : WEFT_ERR_NOMEM;
    }
    st = weft_ctrl_agree(g, st);
    if (st >= 0) st = weft_ckpt_open(g, dir, &s->o.ckpt, &s->ckpt);
    if (st < 0) {
        weft_saver_destroy(s);
        return st;
    }
    *out = s;
    return WEFT_OK;
}

void weft_saver_destroy(weft_saver *s) {
    if (!s) return;
    weft_ckpt_abandon(s->ckpt);
    free_parts(&s->save);
    free(s->dir);
    free(s->tokenizer);
    free(s);
}

weft_ckpt *weft_saver_ckpt(weft_saver *s) {
    return s->ckpt;
}

weft_status weft_saver_plan(weft_saver *s) {
    return weft_ckpt_plan(s->ckpt, s->save.item, s->save.n);
}

weft_status weft_saver_begin(weft_saver *s, const weft_train_state *st, const char *stream, int wait) {
    char *text = NULL;
    weft_status r = WEFT_OK;
    if (stream && !(text = state_text(s, st, stream)))
        r = weft_fail(WEFT_ERR_NOMEM, "out of memory: the state of a run");
    r = weft_ctrl_agree(s->g, r);
    if (r >= 0)
        r = wait ? weft_ckpt_save(s->ckpt, st->step, s->save.item, s->save.n, text)
                 : weft_ckpt_begin(s->ckpt, st->step, s->save.item, s->save.n, text);
    free(text);
    return r;
}

/* --- load -------------------------------------------------------------------------------------------------------------- */

enum { HAS_MASTERS = 1, HAS_SITES = 2 };

/* Does the newest checkpoint keep masters of their own, and an outer state? Told by rank 0. */
static weft_status look_into(weft_saver *s, int32_t *has) {
    ckpt_entry *list = NULL;
    size_t n = 0;
    char name[WEFT_CKPT_NAME_MAX];
    *has = 0;
    snprintf(name, sizeof name, "optim/master/%s", weft_model_params(s->o.model)->item[0].name);
    if (weft_group_rank(s->g) == 0 && ckpt_list(s->dir, &list, &n) >= 0 && n && list[0].status >= 0) {
        char *path = weft_path_join(s->dir, list[0].name);
        ckpt_reader *r = NULL;
        if (path && ckpt_reader_open(path, &r) >= 0) {
            const ckpt_table *t = &ckpt_reader_manifest(r)->table;
            if (ckpt_table_find(t, name)) *has |= HAS_MASTERS;
            if (ckpt_table_find(t, "sites/theta/0")) *has |= HAS_SITES;
        }
        ckpt_reader_close(r);
        free(path);
    }
    free(list);
    return weft_ctrl_bcast(s->g, has, sizeof *has, 0);
}

weft_status weft_saver_load(weft_saver *s, weft_train_state *st, char **stream) {
    parts want = {0};
    int32_t has;
    int64_t step = -1;
    char *text = NULL, where[64];
    *stream = NULL;
    WEFT_TRY(look_into(s, &has));
    weft_status r = weft_ctrl_agree(s->g, make_parts(s, has & HAS_MASTERS ? "optim/master" : "model", 0, 1,
                                                     (has & HAS_SITES) != 0, &want));
    /* every tensor of the optimiser must be wanted by some rank: AdamW's state is not Muon's */
    weft_ckpt_load_opts o = {.size = sizeof o,
                             .prefix = "optim/",
                             .store = weft_shards_apart(s->o.shards) ? store : NULL,
                             .store_arg = s->o.shards};
    if (r >= 0) r = weft_ckpt_load(s->ckpt, &step, want.item, want.n, &o, &text);
    if (r >= 0) {
        snprintf(where, sizeof where, "checkpoint of step %lld", (long long)step);
        r = parse_state(where, text, st, stream);
        if (r >= 0 && s->o.sites && has & HAS_SITES) r = restore_sites(s, text);
    }
    if (r >= 0) *weft_optim_updates(s->o.optim) = st->updates;
    free(text);
    free_parts(&want);
    if (r < 0) {
        free(*stream);
        *stream = NULL;
    }
    return r;
}
