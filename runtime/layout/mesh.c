/* Groups of a layout; see mesh.h. */
#include "runtime/layout/mesh.h"

#include <string.h>

#include "comm/split.h"

/* The ranks that are equal on all axes but those of `mask`, in rank order. */
static weft_status make(weft_group *g, const weft_layout *l, unsigned mask, const char *name,
                        weft_group **out) {
    int color = 0, size = 1;
    for (int a = WEFT_AXES - 1; a >= 0; a--) {
        if (mask >> a & 1)
            size *= l->size[a];
        else
            color = color * l->size[a] + l->at[a];
    }
    *out = NULL;
    if (size == 1) return WEFT_OK;
    if (size == l->ranks) {
        *out = g;
        return WEFT_OK;
    }
    return weft_group_split(g, color, l->rank, name, out);
}

/* The data group the other way: ep neighbours, and those with one place among their neighbours. */
static weft_status make_ep(weft_group *g, const weft_layout *l, weft_mesh *m) {
    const int dp = l->at[WEFT_AXIS_DP], dps = l->size[WEFT_AXIS_DP], runs = dps / l->ep;
    const int part = l->at[WEFT_AXIS_PP] * l->size[WEFT_AXIS_TP] + l->at[WEFT_AXIS_TP];
    if (l->ep == 1) return WEFT_OK;
    const int neighbours = (part * l->size[WEFT_AXIS_CP] + l->at[WEFT_AXIS_CP]) * runs + dp / l->ep;
    if (l->ep == l->ranks)
        m->ep = g;
    else
        WEFT_TRY(weft_group_split(g, neighbours, l->rank, "ep", &m->ep));
    if (runs * l->size[WEFT_AXIS_CP] == 1) return WEFT_OK;
    return weft_group_split(g, part * l->ep + dp % l->ep, l->rank, "same experts", &m->same_experts);
}

weft_status weft_mesh_make(weft_group *g, const weft_layout *l, weft_mesh *m) {
    memset(m, 0, sizeof *m);
    m->all = g;
    for (int a = 0; a < WEFT_AXES; a++) WEFT_TRY(make(g, l, 1u << a, weft_axis_name[a], &m->axis[a]));
    const unsigned both = 1u << WEFT_AXIS_CP | 1u << WEFT_AXIS_DP;
    if (l->size[WEFT_AXIS_CP] == 1)
        m->data = m->axis[WEFT_AXIS_DP];
    else if (l->size[WEFT_AXIS_DP] == 1)
        m->data = m->axis[WEFT_AXIS_CP];
    else
        WEFT_TRY(make(g, l, both, "data", &m->data));
    return make_ep(g, l, m);
}
