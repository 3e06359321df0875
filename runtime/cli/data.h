/* What the commands of `weft data` share. */
#ifndef WEFT_RUNTIME_CLI_DATA_H
#define WEFT_RUNTIME_CLI_DATA_H

#include "io/dataset/dataset.h"
#include "runtime/cli/cli.h"

/* To standard output, as text or as one JSON object. */
void data_print_shard(const char *path, const weft_shard_info *i, int json);

int cli_data_prepare(int argc, char **argv);

/* data_mixture.c: weft data info of a run file (*.yaml, *.yml). */
int data_is_run_file(const char *path);
weft_status data_print_mixture(const char *path, int json);

#endif
