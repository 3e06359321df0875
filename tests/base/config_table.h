/* A table with every kind of key, for the tests and the fuzz target of the configuration. */
#ifndef WEFT_TESTS_BASE_CONFIG_TABLE_H
#define WEFT_TESTS_BASE_CONFIG_TABLE_H

#include "base/config.h"

typedef struct sample_run {
    const char *name;
    int64_t layers, width, tokens, offset;
    int bias;
    double lr, beta;
    int kind;
    weft_strlist files, stop;
} sample_run;

static const char *const sample_kinds[] = {"adamw", "muon", "sgd-m", NULL};

static const weft_config_key sample_keys[] = {
    {"name", WEFT_CONFIG_STRING, offsetof(sample_run, name), NULL, 0, 0, NULL, "name of the run"},
    {"model.layers", WEFT_CONFIG_INT, offsetof(sample_run, layers), NULL, 1, 1000, NULL,
     "transformer blocks"},
    {"optim.lr", WEFT_CONFIG_FLOAT, offsetof(sample_run, lr), "3e-4", 0, 1, NULL, "peak learning rate"},
    {"model.width", WEFT_CONFIG_INT, offsetof(sample_run, width), "384", 1, 65536, NULL, "channels"},
    {"model.bias", WEFT_CONFIG_BOOL, offsetof(sample_run, bias), "true", 0, 0, NULL,
     "biases in linear layers"},
    {"optim.kind", WEFT_CONFIG_ENUM, offsetof(sample_run, kind), "adamw", 0, 0, sample_kinds, "optimiser"},
    {"optim.adam.beta", WEFT_CONFIG_FLOAT, offsetof(sample_run, beta), "0.95", 0, 0, NULL,
     "decay of the second moment"},
    {"data.files", WEFT_CONFIG_LIST, offsetof(sample_run, files), NULL, 0, 0, NULL, "text files"},
    {"data.stop", WEFT_CONFIG_LIST, offsetof(sample_run, stop), "[a, \"b, c\"]", 0, 0, NULL, "stop strings"},
    {"tokens", WEFT_CONFIG_INT, offsetof(sample_run, tokens), "1M", 1, 1e18, NULL, "tokens to train on"},
    {"offset", WEFT_CONFIG_INT, offsetof(sample_run, offset), "0", 0, 0, NULL, "any integer"},
};
enum { SAMPLE_KEYS = sizeof sample_keys / sizeof *sample_keys };

#endif
