/* Functions of the CUDA runtime that is linked into weft, by name: for comm/, whose streams, events and staging memory are
 * its own. */
#ifndef WEFT_KERNELS_CUDA_CALLS_H
#define WEFT_KERNELS_CUDA_CALLS_H

#ifdef __cplusplus
extern "C" {
#endif

/* The function of that name; NULL: weft was built without CUDA, or does not know it. */
void *weft_cuda_function(const char *name);

#ifdef __cplusplus
}
#endif
#endif
