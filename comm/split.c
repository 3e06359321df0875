/* Splitting a group; see split.h. */
#include "comm/split.h"

#include "base/status.h"
#include "comm/ctrl.h"
#include "comm/group.h"

weft_status weft_group_split(weft_group *g, int color, int key, const char *name, weft_group **out) {
    MPI_Comm part = MPI_COMM_NULL;
    *out = NULL;
    WEFT_TRY(group_usable(g));
    const weft_status s =
        color >= 0 ? WEFT_OK : weft_fail(WEFT_ERR_ARG, "splitting group '%s' by color %d", g->name, color);
    WEFT_TRY(weft_ctrl_agree(g, s));
    WEFT_TRY(p2p_check(MPI_Comm_split(p2p_comm(g->ctrl), color, key, &part), "MPI_Comm_split"));
    const weft_status made = weft_group_create(g->ctx, part, name, out);
    MPI_Comm_free(&part);
    return weft_ctrl_agree(g, made);
}
