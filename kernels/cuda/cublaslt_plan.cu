/* Opening cuBLASLt, and plans: descriptors and an algorithm of a product, found once. */
#include <dlfcn.h>
#include <stdlib.h>

#include "kernels/cuda/cublaslt.cuh"

extern "C" {
#include "base/mem.h"
}

/* --- the library ------------------------------------------------------------------------------------------------------------ */

static void *open_any(void) {
    const char *given = getenv("WEFT_CUBLASLT");
    if (given && *given) return dlopen(given, RTLD_NOW | RTLD_LOCAL);
#ifdef WEFT_EMULATED
    return NULL; /* NVIDIA's knows nothing of an emulated device */
#else
    void *library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    return library ? library : dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL);
#endif
}

static int find(void *library, const char *name, void *to) {
    void *symbol = dlsym(library, name);
    memcpy(to, &symbol, sizeof symbol);
    return symbol != NULL;
}

static int find_all(void *l, lt_api *api) {
    return find(l, "cublasLtGetVersion", &api->version) &&
           find(l, "cublasLtGetStatusName", &api->status_name) && find(l, "cublasLtCreate", &api->create) &&
           find(l, "cublasLtDestroy", &api->destroy) &&
           find(l, "cublasLtMatmulDescCreate", &api->desc_create) &&
           find(l, "cublasLtMatmulDescDestroy", &api->desc_destroy) &&
           find(l, "cublasLtMatmulDescSetAttribute", &api->desc_set) &&
           find(l, "cublasLtMatrixLayoutCreate", &api->layout_create) &&
           find(l, "cublasLtMatrixLayoutDestroy", &api->layout_destroy) &&
           find(l, "cublasLtMatmulPreferenceCreate", &api->pref_create) &&
           find(l, "cublasLtMatmulPreferenceDestroy", &api->pref_destroy) &&
           find(l, "cublasLtMatmulPreferenceSetAttribute", &api->pref_set) &&
           find(l, "cublasLtMatmulAlgoGetHeuristic", &api->search) && find(l, "cublasLtMatmul", &api->matmul);
}

cuda_lt *lt_open(const char **why) {
    *why = "";
    void *library = open_any();
    if (!library) {
        const char *error = dlerror();
        *why = error ? error : "not looked for";
        return NULL;
    }
    cuda_lt *lt = (cuda_lt *)weft_calloc(1, sizeof *lt);
    if (lt && find_all(library, &lt->api)) {
        lt->library = library;
        return lt;
    }
    *why = lt ? "a library without the functions of cuBLASLt" : "no memory";
    free(lt);
    dlclose(library);
    return NULL;
}

void lt_close(cuda_lt *lt) {
    if (!lt) return;
    dlclose(lt->library);
    free(lt);
}

weft_status lt_plans_create(const cuda_lt *lt, lt_plans **out) {
    const uint64_t workspace = LT_WORKSPACE;
    const uint32_t reductions = LT_REDUCTION_COMPUTE_TYPE;
    *out = NULL;
    lt_plans *p = (lt_plans *)weft_calloc(1, sizeof *p);
    if (!p) return WEFT_ERR_NOMEM;
    p->api = &lt->api;
    int s = p->api->create(&p->handle);
    if (s == LT_SUCCESS) s = p->api->pref_create(&p->pref);
    if (s == LT_SUCCESS) s = p->api->pref_set(p->pref, LT_PREF_WORKSPACE, &workspace, sizeof workspace);
    if (s == LT_SUCCESS)
        s = p->api->pref_set(p->pref, LT_PREF_REDUCTION_MASK, &reductions, sizeof reductions);
    if (s != LT_SUCCESS) {
        lt_plans_destroy(p);
        return weft_fail(WEFT_ERR_DEVICE, "cuBLASLt: %s", lt->api.status_name(s));
    }
    *out = p;
    return WEFT_OK;
}

/* --- plans ---------------------------------------------------------------------------------------------------------------------- */

static void forget(const lt_api *api, lt_plan *p) {
    for (int i = 0; i < 4; i++)
        if (p->layout[i]) (void)api->layout_destroy(p->layout[i]);
    if (p->desc) (void)api->desc_destroy(p->desc);
    memset(p, 0, sizeof *p);
}

void lt_plans_destroy(lt_plans *p) {
    if (!p) return;
    for (int i = 0; i < LT_PLANS; i++) forget(p->api, &p->plan[i]);
    if (p->pref) (void)p->api->pref_destroy(p->pref);
    if (p->handle) (void)p->api->destroy(p->handle);
    free(p);
}

static int set32(const lt_api *api, void *desc, int attribute, int32_t v) {
    return api->desc_set(desc, attribute, &v, sizeof v);
}

/* Lt's matrices, as they lie in memory: columns of ld. */
static int describe(const lt_api *api, lt_plan *p) {
    const lt_key *k = &p->key;
    const int64_t rows[4] = {k->trans_b ? k->k : k->n, k->trans_a ? k->m : k->k, k->n, k->n};
    const int64_t columns[4] = {k->trans_b ? k->n : k->k, k->trans_a ? k->k : k->m, k->m, k->m};
    const int64_t stride[4] = {k->ldb, k->lda, k->ldc, k->ldd};
    int s = api->desc_create(&p->desc, LT_COMPUTE_32F, LT_R_32F);
    for (int i = 0; i < 4 && s == LT_SUCCESS; i++)
        s = api->layout_create(&p->layout[i], i < 2 ? k->in : k->out, (uint64_t)rows[i], (uint64_t)columns[i],
                               stride[i]);
    if (s == LT_SUCCESS) s = set32(api, p->desc, LT_DESC_TRANSA, k->trans_b ? LT_OP_T : LT_OP_N);
    if (s == LT_SUCCESS) s = set32(api, p->desc, LT_DESC_TRANSB, k->trans_a ? LT_OP_T : LT_OP_N);
    if (s == LT_SUCCESS) s = set32(api, p->desc, LT_DESC_EPILOGUE, k->epilogue);
    if (s == LT_SUCCESS && k->ldaux) s = api->desc_set(p->desc, LT_DESC_AUX_LD, &k->ldaux, sizeof k->ldaux);
    return s;
}

int lt_search(lt_plans *plans, const lt_plan *p, lt_found *found, int most) {
    static const int attribute[4] = {LT_PREF_ALIGN_A, LT_PREF_ALIGN_B, LT_PREF_ALIGN_C, LT_PREF_ALIGN_D};
    int n = 0;
    for (int i = 0; i < 4; i++)
        if (plans->api->pref_set(plans->pref, attribute[i], &p->key.align[i], sizeof p->key.align[i]) !=
            LT_SUCCESS)
            return 0;
    if (plans->api->search(plans->handle, p->desc, p->layout[0], p->layout[1], p->layout[2], p->layout[3],
                           plans->pref, most, found, &n) != LT_SUCCESS)
        return 0;
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (found[i].state == LT_SUCCESS && found[i].workspace <= LT_WORKSPACE) found[kept++] = found[i];
    return kept;
}

lt_plan *lt_plan_of(lt_plans *plans, const lt_key *key) {
    const unsigned known = plans->used < LT_PLANS ? plans->used : LT_PLANS;
    for (unsigned i = 0; i < known; i++)
        if (memcmp(&plans->plan[i].key, key, sizeof *key) == 0)
            return plans->plan[i].found ? &plans->plan[i] : NULL;
    lt_plan *p = &plans->plan[plans->used++ % LT_PLANS];
    lt_found found;
    forget(plans->api, p);
    p->key = *key;
    if (describe(plans->api, p) != LT_SUCCESS || lt_search(plans, p, &found, 1) < 1) return NULL;
    p->algo = found.algo;
    p->workspace = found.workspace;
    p->found = 1;
    return p;
}

weft_status lt_run(lt_plans *plans, lt_plan *plan, const lt_product *p, void *workspace,
                   cudaStream_t stream) {
    const lt_api *api = plans->api;
    const float beta = plan->key.add ? 1.0f : 0.0f;
    int s = LT_SUCCESS;
    if (p->bias) s = api->desc_set(plan->desc, LT_DESC_BIAS_POINTER, &p->bias, sizeof p->bias);
    if (s == LT_SUCCESS && p->aux) s = api->desc_set(plan->desc, LT_DESC_AUX_POINTER, &p->aux, sizeof p->aux);
    if (s == LT_SUCCESS)
        s = api->matmul(plans->handle, plan->desc, &p->alpha, p->b, plan->layout[0], p->a, plan->layout[1],
                        &beta, p->c ? p->c : p->d, plan->layout[2], p->d, plan->layout[3], &plan->algo,
                        workspace, LT_WORKSPACE, (void *)stream);
    return s == LT_SUCCESS ? WEFT_OK : weft_fail(WEFT_ERR_DEVICE, "cublasLtMatmul: %s", api->status_name(s));
}
