/* The level's table: each file of ops writes its own entries. */
#include "kernels/cpu/ops.h"

void CPU_NAME(cpu_fill_ops)(struct weft_ops *t) {
    CPU_NAME(ops_fill_activation)(t);
    CPU_NAME(ops_fill_norm)(t);
    CPU_NAME(ops_fill_embed)(t);
    CPU_NAME(ops_fill_optim)(t);
    CPU_NAME(ops_fill_data)(t);
    CPU_NAME(ops_fill_reduce)(t);
    CPU_NAME(ops_fill_codec)(t);
    CPU_NAME(ops_fill_loss)(t);
    CPU_NAME(ops_fill_experts)(t);
    CPU_NAME(ops_fill_attention_forward)(t);
    CPU_NAME(ops_fill_attention_backward)(t);
    CPU_NAME(ops_fill_attention_merge)(t);
    ops_fill_newton_schulz(t);
    ops_fill_box_copy(t);
}
