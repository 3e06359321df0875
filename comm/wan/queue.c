/* Chunks to be sent; see queue.h. Work stealing: a stream asks for a chunk when it can send, so each takes what it can carry.
 * The end of a queue is where one slow stream would hold up all: what is under way for more than twice the median time is
 * sent once more by a stream that has nothing to do. */
#include "comm/wan/queue.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define STATE_SHARE 0.05      /* of the bytes sent */
#define AGAIN_LEAST 20000000u /* ns: sooner, nothing is called late */

static void append(wan_list *l, wan_item *i) {
    i->next = NULL;
    i->prev = l->last;
    if (l->last)
        l->last->next = i;
    else
        l->first = i;
    l->last = i;
    l->n++;
}

static void prepend(wan_list *l, wan_item *i) {
    i->prev = NULL;
    i->next = l->first;
    if (l->first)
        l->first->prev = i;
    else
        l->last = i;
    l->first = i;
    l->n++;
}

static void unlink_item(wan_list *l, wan_item *i) {
    if (i->prev)
        i->prev->next = i->next;
    else
        l->first = i->next;
    if (i->next)
        i->next->prev = i->prev;
    else
        l->last = i->prev;
    l->n--;
}

weft_status wan_queue_open(wan_queue *q) {
    memset(q, 0, sizeof *q);
    q->window = WAN_WINDOW;
    q->table = weft_calloc(WAN_WINDOW, sizeof *q->table);
    return q->table ? WEFT_OK : WEFT_ERR_NOMEM;
}

static void free_list(wan_list *l) {
    for (wan_item *i = l->first, *next; i; i = next) {
        next = i->next;
        free(i);
    }
    memset(l, 0, sizeof *l);
}

void wan_queue_close(wan_queue *q) {
    for (int k = 0; k < WEFT_WAN_PRIORITIES; k++) free_list(&q->waiting[k]);
    free_list(&q->flying);
    free_list(&q->spare);
    free(q->table);
    memset(q, 0, sizeof *q);
}

weft_status wan_queue_add(wan_queue *q, const weft_wan_chunk *h, const void *data, int priority) {
    wan_item *i = q->spare.first;
    if (i)
        unlink_item(&q->spare, i);
    else
        i = weft_calloc(1, sizeof *i);
    if (!i) return WEFT_ERR_NOMEM;
    memset(i, 0, sizeof *i);
    i->h = *h;
    i->data = data;
    i->priority = priority;
    append(&q->waiting[priority], i);
    return WEFT_OK;
}

/* Which chunk is next: of the highest priority, unless the lowest has waited for its share. NULL: none, no credit, or the
 * next number is still taken: then only chunks that have one can fly, first of all the one that holds it up. */
static wan_item *next_item(const wan_queue *q) {
    const wan_list *low = &q->waiting[WEFT_WAN_PRIORITIES - 1];
    wan_item *holder = q->table[(q->last_id + 1) % WAN_WINDOW];
    if (q->flying.n >= q->window) return NULL;
    if (holder && !holder->on) return holder;
    if (!holder && low->n && q->owed >= low->first->h.bytes) return low->first;
    for (int k = 0; k < WEFT_WAN_PRIORITIES; k++) {
        wan_item *i = q->waiting[k].first;
        if (i && (i->id || !holder)) return i;
    }
    return NULL;
}

int wan_queue_ready(const wan_queue *q) {
    return next_item(q) != NULL;
}

const wan_item *wan_queue_take(wan_queue *q, int stream, uint64_t now) {
    const int last = WEFT_WAN_PRIORITIES - 1;
    wan_item *i = next_item(q);
    if (!i) return NULL;
    if (i->priority == last)
        q->owed = q->owed > i->h.bytes ? q->owed - i->h.bytes : 0;
    else if (q->waiting[last].n)
        q->owed += STATE_SHARE * i->h.bytes;
    unlink_item(&q->waiting[i->priority], i);
    if (!i->id) i->id = ++q->last_id;
    i->bound = now;
    i->on = (uint64_t)1 << stream;
    q->table[i->id % WAN_WINDOW] = i;
    append(&q->flying, i);
    return i;
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t median_ns(const wan_queue *q) {
    uint64_t v[WAN_SAMPLES];
    unsigned n = q->samples < WAN_SAMPLES ? q->samples : WAN_SAMPLES;
    if (!n) return 0;
    memcpy(v, q->took, n * sizeof *v);
    qsort(v, n, sizeof *v, ascending);
    return v[n / 2];
}

const wan_item *wan_queue_again(wan_queue *q, int stream, uint64_t now, uint64_t rtt) {
    uint64_t late = 2 * median_ns(q);
    if (!q->samples) return NULL;
    if (late < 2 * rtt) late = 2 * rtt;
    if (late < AGAIN_LEAST) late = AGAIN_LEAST;
    for (wan_item *i = q->flying.first; i; i = i->next) {
        int alone = !(i->on & (i->on - 1));
        if (now - i->bound <= late) break; /* the others flew later */
        if (!alone || i->on >> stream & 1) continue;
        i->on |= (uint64_t)1 << stream;
        q->resent++;
        return i;
    }
    return NULL;
}

/* The list that i is in. */
static wan_list *list_of(wan_queue *q, const wan_item *i) {
    return i->on ? &q->flying : &q->waiting[i->priority];
}

static void to_spare(wan_queue *q, wan_item *i, wan_item *out) {
    *out = *i;
    unlink_item(list_of(q, i), i);
    if (i->id) q->table[i->id % WAN_WINDOW] = NULL;
    append(&q->spare, i);
}

/* A chunk that had to go back to waiting may be acknowledged all the same: its copy arrived, the news came late. */
int wan_queue_ack(wan_queue *q, uint64_t id, uint64_t now, wan_item *out) {
    wan_item *i = q->table[id % WAN_WINDOW];
    if (!id || !i || i->id != id) return 0;
    if (i->on) q->took[q->samples++ % WAN_SAMPLES] = now - i->bound;
    to_spare(q, i, out);
    return 1;
}

void wan_queue_lost(wan_queue *q, int stream) {
    uint64_t bit = (uint64_t)1 << stream;
    for (wan_item *i = q->flying.last, *prev; i; i = prev) { /* backwards, so that the oldest ends in front */
        prev = i->prev;
        if (!(i->on & bit)) continue;
        i->on &= ~bit;
        if (i->on) continue;
        unlink_item(&q->flying, i);
        q->resent++;
        prepend(&q->waiting[i->priority], i); /* its number stays taken */
    }
}

int wan_queue_pull(wan_queue *q, int (*match)(const weft_wan_chunk *h, const void *arg), const void *arg,
                   wan_item *out) {
    for (int k = 0; k <= WEFT_WAN_PRIORITIES; k++) {
        wan_list *l = k < WEFT_WAN_PRIORITIES ? &q->waiting[k] : &q->flying;
        for (wan_item *i = l->first; i; i = i->next)
            if (match(&i->h, arg)) {
                to_spare(q, i, out);
                return 1;
            }
    }
    return 0;
}

uint64_t wan_queue_count(const wan_queue *q) {
    uint64_t n = q->flying.n;
    for (int k = 0; k < WEFT_WAN_PRIORITIES; k++) n += q->waiting[k].n;
    return n;
}

int wan_queue_on(const wan_queue *q, int stream) {
    for (const wan_item *i = q->flying.first; i; i = i->next)
        if (i->on >> stream & 1) return 1;
    return 0;
}

/* ---- the receiver's side ---- */

int wan_seen_has(const wan_seen *s, uint64_t id) {
    if (id + WAN_WINDOW <= s->top) return 1;
    if (id > s->top) return 0;
    return (int)(s->bits[id % WAN_WINDOW / 64] >> id % 64 & 1);
}

void wan_seen_add(wan_seen *s, uint64_t id) {
    uint64_t ahead = id > s->top ? id - s->top : 0;
    if (ahead >= WAN_WINDOW)
        memset(s->bits, 0, sizeof s->bits);
    else
        for (uint64_t k = s->top + 1; k < id; k++) s->bits[k % WAN_WINDOW / 64] &= ~((uint64_t)1 << k % 64);
    if (id > s->top) s->top = id;
    s->bits[id % WAN_WINDOW / 64] |= (uint64_t)1 << id % 64;
}
