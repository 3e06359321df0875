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

MISSING(attn_fwd)
MISSING(attn_bwd)
MISSING(attn_merge)
NO_SCRATCH(attn_fwd_scratch)
NO_SCRATCH(attn_bwd_scratch)
