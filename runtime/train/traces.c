/* The trace of a run: the clocks of the ranks are measured at the start, every 5 minutes and at the end; at the end each
 * rank writes its own, and rank 0 makes one of them. A run that is killed leaves none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/trace.h"
#include "comm/skew.h"
#include "io/metrics/trace.h"
#include "runtime/train/internal.h"

#define TRACE_EVENTS ((size_t)1 << 17) /* the last ones; 5 MiB */
#define CLOCKS_S     300.0
enum { CLOCKS = 512 }; /* when they are full, every second one stays */

static weft_status measure(weft_trainer *t) {
    weft_skew k;
    WEFT_TRY_CTX(weft_ctrl_skew(t->o.group, &k), "measuring the clocks for the trace");
    if (t->nclocks == CLOCKS) {
        for (size_t i = 0; i < CLOCKS / 2; i++) t->clocks[i] = t->clocks[2 * i];
        t->nclocks = CLOCKS / 2;
    }
    t->clocks[t->nclocks++] = (weft_trace_clock){k.t, k.offset, k.bound};
    t->clocks_at = t->st.elapsed;
    return WEFT_OK;
}

/* Traces of an earlier process with more ranks are not of this run. */
static void forget_more_ranks(const weft_trainer *t) {
    char path[4096];
    for (int r = t->ranks;; r++) {
        snprintf(path, sizeof path, "%s/trace.%d.json", t->dir, r);
        if (unlink(path) < 0) return;
    }
}

weft_status trainer_trace_begin(weft_trainer *t) {
    if (!t->c->log.trace) return WEFT_OK;
    if (t->rank == 0) forget_more_ranks(t);
    t->clocks = weft_calloc(CLOCKS, sizeof *t->clocks);
    weft_status s = t->clocks ? weft_trace_open(TRACE_EVENTS) : WEFT_ERR_NOMEM;
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    return measure(t);
}

weft_status trainer_trace_step(weft_trainer *t) {
    /* elapsed is rank 0's and the same on all ranks */
    return t->clocks && t->st.elapsed - t->clocks_at >= CLOCKS_S ? measure(t) : WEFT_OK;
}

void trainer_trace_write(weft_trainer *t) {
    char path[4096];
    if (t->dir && t->clocks && weft_trace_is_open()) {
        snprintf(path, sizeof path, "%s/trace.%d.json", t->dir, t->rank);
        if (weft_trace_write(path, t->rank, t->clocks, t->nclocks) < 0) weft_warn("%s", weft_last_error());
        weft_trace_close();
    }
    free(t->clocks);
    t->clocks = NULL;
}

void trainer_trace_end(weft_trainer *t) {
    char path[4096];
    weft_trace_merged m;
    if (!t->clocks) return;
    weft_status s = measure(t);
    trainer_trace_write(t);
    if (s >= 0) s = weft_ctrl_barrier(t->o.group); /* all files are there */
    if (s < 0) {
        weft_warn("trace: %s", weft_last_error());
        return;
    }
    if (t->rank != 0) return;
    snprintf(path, sizeof path, "%s/trace.json", t->dir);
    if (weft_trace_merge(t->dir, path, &m) < 0)
        weft_warn("trace: %s", weft_last_error());
    else if (m.ranks < t->ranks)
        weft_warn("trace.json holds %d of %d ranks: the others wrote on a file system of their own (weft "
                  "trace merge)",
                  m.ranks, t->ranks);
}
