#include "benchmarks/peers/peers.h"

#include <stdlib.h>

const struct peer *const peers[] = {&peer_openblas,
                                    &peer_blis,
#ifdef WEFT_BENCH_ONEDNN
                                    &peer_onednn_sgemm,
                                    &peer_onednn,
                                    &peer_onednn_packed,
#endif
                                    NULL};

void peer_set(const char *variable, const char *value) {
    if (value)
        setenv(variable, value, 1);
    else
        unsetenv(variable);
}

int peer_has_avx512(void) {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
    return 0;
#endif
}
