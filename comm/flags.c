/* Flags; see flags.h. */
#include "comm/flags.h"

#include "base/status.h"
#include "comm/group.h"
#include "comm/lat.h"

static weft_group *carrier(const weft_ctx *c) {
    for (int i = 1; i < c->next_id; i++)
        if (c->groups[i] && c->groups[i]->size == c->all->size) return c->groups[i];
    return c->all;
}

uint32_t flags_take(weft_ctx *c, const weft_group *g, uint64_t seq) {
    step_flags *f = &c->flags;
    const int now = (int)(f->step % FLAGS_STEPS);
    if (!f->step || f->of[now].group || g != carrier(c)) return 0;
    f->of[now].group = g;
    f->of[now].seq = seq;
    return f->leaving;
}

void flags_arrived(weft_ctx *c, const weft_group *g, uint64_t seq, uint32_t agreed) {
    step_flags *f = &c->flags;
    for (int i = 0; f->step && i < FLAGS_STEPS; i++) {
        if (f->of[i].group != g || f->of[i].seq != seq) continue;
        f->of[i].agreed = agreed;
        f->of[i].here = 1;
    }
}

weft_status weft_raise(weft_ctx *c, uint32_t raised) {
    if (!c || raised > UINT16_MAX) return weft_fail(WEFT_ERR_ARG, "flags %#x: 16 bits", (unsigned)raised);
    c->flags.raised |= raised;
    return WEFT_OK;
}

weft_status weft_step(weft_ctx *c, uint32_t *agreed) {
    if (!c || !agreed) return weft_fail(WEFT_ERR_ARG, "step without a context or a place for the flags");
    step_flags *f = &c->flags;
    weft_group *g = carrier(c);
    const void *site = __builtin_return_address(0);
    *agreed = 0;
    WEFT_TRY(group_usable(g));
    if (f->step && !f->of[f->step % FLAGS_STEPS].group) {
        c->engine.pulses++;
        WEFT_TRY(lat_pulse(g, site));
    }
    f->step++;
    f->leaving = f->raised;
    f->raised = 0;
    f->of[f->step % FLAGS_STEPS].group = NULL;
    f->of[f->step % FLAGS_STEPS].here = 0;
    if (f->step < 3) return WEFT_OK;
    const int before = (int)((f->step - 2) % FLAGS_STEPS);
    if (!f->of[before].here) WEFT_TRY(lat_wait(f->of[before].group, f->of[before].seq, site));
    *agreed = f->of[before].agreed;
    return WEFT_OK;
}
