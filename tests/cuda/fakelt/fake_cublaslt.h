/* What tests ask the stand-in for cuBLASLt (fake_cublaslt.cpp); found by dlsym. */
#ifndef WEFT_TESTS_FAKE_CUBLASLT_H
#define WEFT_TESTS_FAKE_CUBLASLT_H

#define FAKE_LT_EPILOGUES 1024

/* Products with an epilogue (LT_EPILOGUE_ of kernels/cuda/cublaslt_api.h) so far; searches for an algorithm. */
typedef unsigned long fake_lt_calls_fn(int epilogue);
typedef unsigned long fake_lt_searches_fn(void);

#endif
