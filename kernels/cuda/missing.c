/* Ops that are still to come: a line is deleted when its op lands. */
#include "base/status.h"

#define MISSING(op)                                                                                          \
    weft_status cuda_##op(void);                                                                             \
    weft_status cuda_##op(void) {                                                                            \
        return weft_fail(WEFT_ERR_UNSUPPORTED, #op ": not yet on cuda");                                     \
    }
#define NO_SCRATCH(op)                                                                                       \
    unsigned long cuda_##op(void);                                                                           \
    unsigned long cuda_##op(void) {                                                                          \
        return 0;                                                                                            \
    }

MISSING(gemm)
MISSING(gemm_pack)
MISSING(embed_fwd)
MISSING(embed_bwd)
MISSING(norm_fwd)
MISSING(norm_bwd)
MISSING(gelu_fwd)
MISSING(gelu_bwd)
MISSING(swiglu_fwd)
MISSING(swiglu_bwd)
MISSING(rope)
MISSING(attn_fwd)
MISSING(attn_bwd)
MISSING(attn_merge)
MISSING(loss_stats)
MISSING(loss_grad)
MISSING(gemm_groups)
MISSING(route_fwd)
MISSING(route_load)
MISSING(route_bwd)
MISSING(route_sort)
MISSING(rows_scatter)
MISSING(rows_combine)
MISSING(rows_combine_bwd)
NO_SCRATCH(gemm_scratch)
NO_SCRATCH(gemm_groups_scratch)
NO_SCRATCH(embed_bwd_scratch)
NO_SCRATCH(norm_bwd_scratch)
NO_SCRATCH(attn_fwd_scratch)
NO_SCRATCH(attn_bwd_scratch)
NO_SCRATCH(loss_scratch)
