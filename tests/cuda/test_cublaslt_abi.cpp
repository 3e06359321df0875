/* kernels/cuda/cublaslt_api.h says of cuBLASLt what NVIDIA's header says: numbers, and how many arguments of which size each
 * function has. Compiling is most of the test. */
#include <cublasLt.h>
#include <stddef.h>
#include <stdio.h>
#include <type_traits>

#include "kernels/cuda/cublaslt_api.h"

#define SAME(ours, theirs) static_assert((long)(ours) == (long)(theirs), #ours)

SAME(LT_SUCCESS, CUBLAS_STATUS_SUCCESS);
SAME(LT_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(LT_R_32F, CUDA_R_32F);
SAME(LT_R_16BF, CUDA_R_16BF);
SAME(LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(LT_OP_N, CUBLAS_OP_N);
SAME(LT_OP_T, CUBLAS_OP_T);
SAME(LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(LT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(LT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(LT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(LT_DESC_AUX_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
SAME(LT_DESC_AUX_LD, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
SAME(LT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT);
SAME(LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(LT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU);
SAME(LT_EPILOGUE_GELU | LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS);
SAME(LT_EPILOGUE_GELU | LT_EPILOGUE_AUX, CUBLASLT_EPILOGUE_GELU_AUX);
SAME(LT_EPILOGUE_GELU | LT_EPILOGUE_AUX | LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
SAME(LT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU);
SAME(LT_EPILOGUE_BGRADB, CUBLASLT_EPILOGUE_BGRADB);
SAME(LT_PREF_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(LT_PREF_REDUCTION_MASK, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(LT_PREF_ALIGN_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(LT_PREF_ALIGN_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(LT_PREF_ALIGN_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(LT_PREF_ALIGN_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(LT_REDUCTION_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(sizeof(lt_algo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(lt_found), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(lt_found, workspace), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(lt_found, state), offsetof(cublasLtMatmulHeuristicResult_t, state));

/* The same number of arguments, each a pointer where theirs is one, of its size. */
template <class Ours, class Theirs>
constexpr bool alike = sizeof(Ours) == sizeof(Theirs) && std::is_pointer<Ours>::value
                                                             == std::is_pointer<Theirs>::value;
template <class R, class... P, class S, class... Q> constexpr bool fits(R (*)(P...), S (*)(Q...)) {
    if constexpr (sizeof...(P) != sizeof...(Q))
        return false;
    else
        return alike<R, S> && (alike<P, Q> && ...);
}
#define FITS(member, function)                                                                               \
    static_assert(fits((decltype(lt_api::member))NULL, (decltype(&function))NULL), #function)

FITS(version, cublasLtGetVersion);
FITS(status_name, cublasLtGetStatusName);
FITS(create, cublasLtCreate);
FITS(destroy, cublasLtDestroy);
FITS(desc_create, cublasLtMatmulDescCreate);
FITS(desc_destroy, cublasLtMatmulDescDestroy);
FITS(desc_set, cublasLtMatmulDescSetAttribute);
FITS(layout_create, cublasLtMatrixLayoutCreate);
FITS(layout_destroy, cublasLtMatrixLayoutDestroy);
FITS(pref_create, cublasLtMatmulPreferenceCreate);
FITS(pref_destroy, cublasLtMatmulPreferenceDestroy);
FITS(pref_set, cublasLtMatmulPreferenceSetAttribute);
FITS(search, cublasLtMatmulAlgoGetHeuristic);
FITS(matmul, cublasLtMatmul);

int main() {
    puts("what weft says of cuBLASLt is what its header says");
    return 0;
}
