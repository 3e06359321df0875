/* weft ckpt: what is done with checkpoints and models outside of a run. One file per subcommand. */
#include "runtime/cli/cli.h"

int cli_ckpt(int argc, char **argv) {
    static const cli_command sub[] = {
        {"convert", "a model as HuggingFace, llm.c, llama2.c or GGUF files", cli_ckpt_convert},
    };
    return cli_group("ckpt", sub, sizeof sub / sizeof *sub,
                     "weft ckpt convert runs/kjv/checkpoints/latest kjv.gguf --dtype f16", argc, argv);
}
