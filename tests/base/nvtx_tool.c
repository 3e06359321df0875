/* A tool as NVTX loads one: writes what begins and ends to $WEFT_TEST_RANGES, a line each. */
#include <nvtx3/nvToolsExt.h>

#include <stdio.h>
#include <stdlib.h>

static FILE *out;

static int push(const char *name) {
    return fprintf(out, "push %s\n", name);
}

static int pop(void) {
    return fprintf(out, "pop\n");
}

static nvtxRangeId_t start(const char *name) {
    fprintf(out, "start %s\n", name);
    return 42;
}

static void end(nvtxRangeId_t id) {
    fprintf(out, "end %d\n", (int)id);
    fflush(out);
}

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table);

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
    unsigned n = 0;
    NvtxFunctionTable table = NULL;
    const NvtxExportTableCallbacks *callbacks = get_table(NVTX_ETID_CALLBACKS);
    const char *path = getenv("WEFT_TEST_RANGES");
    out = path ? fopen(path, "we") : NULL;
    if (!out || !callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &n)) return 0;
    if (n <= NVTX_CBID_CORE_RangePop) return 0;
    *table[NVTX_CBID_CORE_RangePushA] = (NvtxFunctionPointer)push;
    *table[NVTX_CBID_CORE_RangePop] = (NvtxFunctionPointer)pop;
    *table[NVTX_CBID_CORE_RangeStartA] = (NvtxFunctionPointer)start;
    *table[NVTX_CBID_CORE_RangeEnd] = (NvtxFunctionPointer)end;
    return 1;
}
