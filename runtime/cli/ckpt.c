/* weft ckpt: what is done with checkpoints and models outside of a run. checkpoints.c looks after them, convert.c converts. */
#include "runtime/cli/cli.h"

int cli_ckpt(int argc, char **argv) {
    static const cli_command sub[] = {
        {"ls", "the checkpoints of a run", cli_ckpt_ls},
        {"show", "what one holds", cli_ckpt_show},
        {"verify", "is every byte what was saved?", cli_ckpt_verify},
        {"diff", "two of them, tensor by tensor", cli_ckpt_diff},
        {"prune", "remove old ones", cli_ckpt_prune},
        {"repair", "mend a damaged one from copies", cli_ckpt_repair},
        {"convert", "a model as HuggingFace, llm.c, llama2.c or GGUF files", cli_ckpt_convert},
    };
    return cli_group("ckpt", sub, sizeof sub / sizeof *sub,
                     "weft ckpt convert runs/kjv/checkpoints/latest kjv.gguf --dtype f16", argc, argv);
}
