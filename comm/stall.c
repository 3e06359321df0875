/* The boards; see stall.h. A board has one writer. Readers look at it rarely and only to tell a person: they copy it and
 * accept that a board in motion is a moment old. */
#include "comm/stall.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"
#include "comm/lat.h"
#include "comm/shm/segment.h"

#define SITES      64 /* that are told apart; 0: unknown */
#define SITE_BYTES 112
#define WHAT_BYTES 96

typedef struct stall_board {
    _Alignas(128) _Atomic uint32_t waits; /* 1: in a wait of weft */
    uint32_t site;
    int32_t waits_for;      /* rank of the group */
    _Atomic uint64_t since; /* ns: began to wait, or ended */
    char group[64], what[WHAT_BYTES];
    char text[SITES][SITE_BYTES]; /* of the call sites */
    _Atomic uint64_t told;        /* stalls reported; release: the last one stands below */
    double told_s;
    char told_text[STALL_TEXT];
} stall_board;

struct stall {
    weft_ctx *ctx;
    segment segment;
    stall_board *board; /* by rank of the node */
    const void *site[SITES];
    uint32_t sites;
    uint64_t *noted; /* by rank of the node: those that stall_news has handed out */
};

weft_status stall_create(weft_ctx *c, stall **out) {
    stall *s = weft_calloc(1, sizeof *s);
    if (s) s->noted = weft_calloc((size_t)c->all->node.size, sizeof *s->noted);
    weft_status e = weft_ctrl_agree(c->all, s && s->noted ? WEFT_OK : WEFT_ERR_NOMEM);
    *out = NULL;
    if (e >= 0) e = segment_create(c->all, (size_t)c->all->node.size * sizeof(stall_board), &s->segment);
    if (e < 0) {
        if (s) free(s->noted);
        free(s);
        return weft_context(e, "boards of the ranks");
    }
    s->ctx = c;
    s->board = s->segment.at;
    s->sites = 1;
    *out = s;
    return WEFT_OK;
}

void stall_destroy(stall *s) {
    if (!s) return;
    segment_destroy(&s->segment);
    free(s->noted);
    free(s);
}

static stall_board *own_board(const stall *s) {
    return &s->board[s->ctx->all->node.me];
}

/* "program(function+0x12)", which addr2line understands. */
static void name_site(const void *address, char *text, size_t n) {
    Dl_info d;
    if (!dladdr(address, &d) || !d.dli_fname) {
        snprintf(text, n, "%p", address);
        return;
    }
    const char *slash = strrchr(d.dli_fname, '/');
    const char *file = slash ? slash + 1 : d.dli_fname;
    const char *at = address, *base = d.dli_sname ? d.dli_saddr : d.dli_fbase;
    snprintf(text, n, "%.48s(%.40s+0x%lx)", file, d.dli_sname ? d.dli_sname : "", (unsigned long)(at - base));
}

uint32_t stall_site(weft_ctx *c, const void *address) {
    stall *s = c->stall;
    if (!s || !address) return 0;
    for (uint32_t i = 1; i < s->sites; i++)
        if (s->site[i] == address) return i;
    if (s->sites == SITES) return 0;
    const uint32_t i = s->sites++;
    s->site[i] = address;
    name_site(address, own_board(s)->text[i], SITE_BYTES);
    return i;
}

void stall_enter(const comm_op *op) {
    const stall *s = op->group->ctx->stall;
    if (!s) return;
    stall_board *b = own_board(s);
    b->site = stall_site(op->group->ctx, op->site);
    snprintf(b->group, sizeof b->group, "%s", op->group->name);
    snprintf(b->what, sizeof b->what, "%s", op->what);
    b->waits_for = -1;
    atomic_store_explicit(&b->since, weft_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&b->waits, 1, memory_order_release); /* pairs with describe_board */
}

void stall_leave(weft_ctx *c) {
    if (!c->stall) return;
    stall_board *b = own_board(c->stall);
    atomic_store_explicit(&b->since, weft_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&b->waits, 0, memory_order_release); /* pairs with describe_board */
}

/* The board of a rank of the group, NULL if it is on another node. */
static const stall_board *board_of(const weft_group *g, int rank) {
    const stall *s = g->ctx->stall;
    if (!s) return NULL; /* the first group is being made */
    const group_nodes *n = &g->ctx->all->node;
    for (int i = 0; i < n->size; i++)
        if (n->rank[i] == g->member[rank]) return &s->board[i];
    return NULL;
}

static void site_text(const stall_board *b, uint32_t site, char *text, size_t n) {
    if (b && site && site < SITES)
        snprintf(text, n, "%.*s", SITE_BYTES - 1, b->text[site]);
    else
        snprintf(text, n, "an unknown place");
}

void stall_describe(const weft_group *g, int rank, const stall_note *n, char *text, size_t bytes) {
    static const char *const op_name[] = {"sum", "min", "max", "bor", "band", "land"};
    char site[SITE_BYTES];
    site_text(board_of(g, rank), n->site, site, sizeof site);
    snprintf(text, bytes, "%.60s posts %u of %u bytes (first %s %s) at %s", weft_group_peer(g, rank),
             n->entries, n->bytes,
             n->type < WEFT_DTYPE_COUNT ? weft_dtype_name((weft_dtype)n->type) : "empty",
             n->op < WEFT_REDOP_COUNT ? op_name[n->op] : "?", site);
}

/* What a late rank does instead. */
static void describe_board(const weft_group *g, int rank, uint64_t now, char *text, size_t n) {
    const stall_board *b = board_of(g, rank);
    const stall_note *last = lat_last(g, rank);
    char site[SITE_BYTES];
    if (!b) {
        snprintf(text, n, "is on another node");
        return;
    }
    const int waits = atomic_load_explicit(&b->waits, memory_order_acquire);
    const uint64_t since = atomic_load_explicit(&b->since, memory_order_relaxed);
    const double s = since && now > since ? (double)(now - since) * 1e-9 : 0;
    site_text(b, b->site, site, sizeof site);
    if (waits)
        snprintf(text, n, "waits in %.90s of group '%.60s' for %.1f s, called at %s", b->what, b->group, s,
                 site);
    else if (last && last->seq) {
        site_text(b, last->site, site, sizeof site);
        snprintf(text, n, "is outside weft; its last small reduction here was number %llu, at %s",
                 (unsigned long long)last->seq, site);
    } else {
        snprintf(text, n, "is outside weft and has posted no small reduction here");
    }
}

/* Of all ranks of a node that wait in the group, the lowest speaks. */
static int speaks(const weft_group *g) {
    for (int i = 0; i < g->node.me; i++) {
        const stall_board *b = board_of(g, g->node.rank[i]);
        if (b && atomic_load_explicit(&b->waits, memory_order_acquire) && !strcmp(b->group, g->name))
            return 0;
    }
    return 1;
}

/* Puts on this rank's board what it has just reported; stalls of one rank are seconds apart, so that a reader that copies
 * one is not overtaken. */
static void tell(const weft_group *g, const char *what, const char *whom, uint64_t waited) {
    if (!g->ctx->stall) return; /* the first group is being made */
    stall_board *b = own_board(g->ctx->stall);
    b->told_s = (double)waited * 1e-9;
    snprintf(b->told_text, sizeof b->told_text, "%.60s waits in %.60s of group '%.30s'%.160s",
             weft_group_peer(g, g->rank), what, g->name, whom);
    atomic_fetch_add_explicit(&b->told, 1, memory_order_release);
}

int stall_report(const comm_op *op, uint64_t waited) {
    weft_group *g = op->group;
    const uint64_t now = weft_now_ns();
    if (!speaks(g)) return 0;
    char text[512], ours[SITE_BYTES];
    const stall_board *b = board_of(g, g->rank);
    site_text(b, op->site ? stall_site(g->ctx, op->site) : 0, ours, sizeof ours);
    weft_log(WEFT_LOG_WARN, "%s has waited %.1f s in %s of group '%s', called at %s",
             weft_group_peer(g, g->rank), (double)waited * 1e-9, op->what, g->name, ours);
    char first[STALL_TEXT] = "";
    int told = 0;
    for (int r = 0; r < g->size && told < 8; r++) {
        const stall_board *o = board_of(g, r);
        if (r == g->rank || (r != op->waits_for && (!o || op->waits_for >= 0))) continue;
        describe_board(g, r, now, text, sizeof text);
        weft_log(WEFT_LOG_WARN, "  %s %s", weft_group_peer(g, r), text);
        if (!told++) snprintf(first, sizeof first, ": %.60s %.120s", weft_group_peer(g, r), text);
    }
    tell(g, op->what, first, waited);
    return 1;
}

int stall_news(weft_ctx *c, stall_told *told) {
    stall *s = c->stall;
    for (int i = 0; s && i < c->all->node.size; i++) {
        const stall_board *b = &s->board[i];
        const uint64_t n = atomic_load_explicit(&b->told, memory_order_acquire);
        if (n == s->noted[i]) continue;
        s->noted[i] = n;
        told->seconds = b->told_s;
        snprintf(told->text, sizeof told->text, "%.*s", STALL_TEXT - 1, b->told_text);
        return 1;
    }
    return 0;
}
