/* gemm_pack on the device: a header and a copy of B as it is stored, its rows 16-byte aligned. The providers' kernels read
 * such a matrix at full speed, so there is no other layout; packs exist so that programs of the op table run unchanged.
 * The header is checked as on the other backends: a foreign or stale pack is refused. */
#include "kernels/cuda/gemm_pack.cuh"

struct pack_header {
    char magic[8];
    uint64_t version;
    int64_t n, k;
    uint32_t dtype, trans_b, contract, zero[5];
};

static const char pack_magic[8] = "wftpgpu";

static pack_header header_of(const weft_gemm_desc *d) {
    pack_header h;
    memset(&h, 0, sizeof h);
    memcpy(h.magic, pack_magic, sizeof h.magic);
    h.version = d->pack_version;
    h.n = d->n;
    h.k = d->k;
    h.dtype = (uint32_t)d->b;
    h.trans_b = d->trans_b;
    h.contract = WEFT_KERNELS_CONTRACT;
    return h;
}

static int64_t stored_rows(const weft_gemm_desc *d) {
    return d->trans_b ? d->n : d->k;
}
static int64_t stored_columns(const weft_gemm_desc *d) {
    return d->trans_b ? d->k : d->n;
}
/* Of the matrix in the pack, in elements. */
static int64_t pack_stride(const weft_gemm_desc *d) {
    const int64_t each = 16 / (int64_t)weft_dtype_size(d->b);
    return divup(stored_columns(d), each) * each;
}

template <class T>
__global__ void pack_rows(const pack_header h, const T *from, const int64_t rows, const int64_t columns,
                          const int64_t ld, const int64_t stride, unsigned char *to) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x, at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    T *data = (T *)(to + sizeof(pack_header));
    if (at == 0) memcpy(to, &h, sizeof h);
    for (int64_t i = at; i < rows * stride; i += step)
        data[i] = i % stride < columns ? from[i / stride * ld + i % stride] : (T)0;
}

weft_status cuda_gemm_pack(weft_exec *x, const weft_gemm_desc *d, const void *b, void *dst, size_t *bytes) {
    WEFT_TRY(weft_check_gemm_desc(d));
    if (d->b_packed) return weft_fail(WEFT_ERR_ARG, "gemm_pack: b is packed already");
    if (d->gated) return weft_fail(WEFT_ERR_UNSUPPORTED, "gemm_pack: a gated product takes b as it is");
    WEFT_TRY(weft_check_given("gemm_pack", bytes != NULL));
    WEFT_TRY(weft_check_extent("gemm_pack", stored_rows(d), pack_stride(d)));
    const int64_t rows = stored_rows(d), stride = pack_stride(d);
    if (dst) {
        const pack_header h = header_of(d);
        const dim3 grid(rows * stride > 0 ? cuda_blocks(x, rows * stride, 256, 8) : 1);
        WEFT_TRY(weft_check_given("gemm_pack", b || d->k == 0 || d->n == 0));
        if (d->b == WEFT_BF16)
            WEFT_TRY(cuda_launch(x, "gemm_pack", pack_rows<uint16_t>, grid, dim3(256), 0, h,
                                 (const uint16_t *)b, rows, stored_columns(d), d->ldb, stride,
                                 (unsigned char *)dst));
        else
            WEFT_TRY(cuda_launch(x, "gemm_pack", pack_rows<uint32_t>, grid, dim3(256), 0, h,
                                 (const uint32_t *)b, rows, stored_columns(d), d->ldb, stride,
                                 (unsigned char *)dst));
    }
    *bytes = sizeof(pack_header) + (size_t)rows * (size_t)stride * weft_dtype_size(d->b);
    return WEFT_OK;
}

weft_status gemm_unpack(weft_exec *x, const weft_gemm_desc *d, const void *pack, weft_gemm_desc *plain,
                        const void **b) {
    pack_header found;
    const pack_header wanted = header_of(d);
    WEFT_TRY(weft_check_given("gemm", pack != NULL));
    WEFT_TRY(cuda_result(x, &found, pack, sizeof found));
    if (memcmp(found.magic, pack_magic, sizeof found.magic) != 0)
        return weft_fail(WEFT_ERR_STALE, "gemm: b was not packed by the cuda backend; pack it again");
    if (memcmp(&found, &wanted, sizeof found) != 0)
        return weft_fail(WEFT_ERR_STALE,
                         "gemm: b is packed as [%lld, %lld] version %llu, expected [%lld, %lld] version "
                         "%llu; pack it again",
                         (long long)found.k, (long long)found.n, (unsigned long long)found.version,
                         (long long)d->k, (long long)d->n, (unsigned long long)d->pack_version);
    *plain = *d;
    plain->b_packed = 0;
    plain->ldb = pack_stride(d);
    *b = (const char *)pack + sizeof(pack_header);
    return WEFT_OK;
}
