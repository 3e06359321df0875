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
    return WEFT_OK;
}
