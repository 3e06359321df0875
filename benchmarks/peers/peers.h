/* The libraries that the gemm is measured against, behind one interface: one file a library.
 *
 * A library is loaded when its peer is opened (no link, no build without it), with its best settings: the
 * instruction set it would not choose by itself, one thread a core, and no waiting in a loop that would
 * take the core from whoever is measured next. A peer says what it chose. Peers have no state but their
 * library; one thread calls them. */
#ifndef WEFT_BENCH_PEERS_H
#define WEFT_BENCH_PEERS_H

#include "kernels/kernels.h"

struct peer {
    const char *name;
    unsigned char types[2]; /* by weft_dtype: 1 if it multiplies these into f32 */
    int packs;              /* its plan holds B in a layout of its own: to be compared with a packed B only */

    /* 0 if the library is not here. isa: NULL, or "avx2": no more than that. text: version, kernels
     * chosen. */
    int (*open)(int threads, const char *isa, char *text, size_t size);
    /* A product C = op(A) op(B) of this shape (beta 0, c f32); b: what a packing peer packs. NULL: it
     * cannot. */
    void *(*plan)(const weft_gemm_desc *d, const void *b);
    void (*run)(void *plan, const void *a, const void *b, void *c);
    void (*drop)(void *plan);
    /* Where a packing peer keeps B; NULL otherwise. */
    const void *(*packed)(void *plan, size_t *bytes);
};

extern const struct peer peer_openblas, peer_blis, peer_onednn_sgemm, peer_onednn, peer_onednn_packed;
extern const struct peer *const peers[]; /* all that this build knows; ends with NULL */

/* For open(): sets an environment variable (NULL: takes it out), whatever it was. */
void peer_set(const char *variable, const char *value);
/* Does the processor have AVX-512 as Skylake servers do? */
int peer_has_avx512(void);

#endif
