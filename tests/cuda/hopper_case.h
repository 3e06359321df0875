/* One product of kernels/cuda/hopper_gemm.cuh on the emulated device against double arithmetic. Without a guard: it is
 * included once for each copy of the kernel, in the namespace of that copy (test_hopper_gemm.cpp). */

struct hopper_case {
    int columns, trans_a, trans_b, kind, f32, cluster, m, n, k, add;
};

/* A matrix in ordinary memory, 128-aligned, rows padded to whole 16 bytes and beyond; the padding holds NaN. */
struct case_matrix {
    uint16_t *v;
    int rows, cols, ld;
};
static case_matrix new_matrix(int rows, int cols) {
    case_matrix a = {NULL, rows, cols, (cols + 7) / 8 * 8 + 8};
    a.v = (uint16_t *)aligned_alloc(128, ((size_t)rows * (size_t)a.ld * 2 + 127) / 128 * 128);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < a.ld; c++) a.v[r * a.ld + c] = c < cols ? bf16_of(case_number()) : 0x7fc0;
    return a;
}
static double element(const case_matrix &a, int trans, int r, int c) {
    return (double)f32_of(trans ? a.v[c * a.ld + r] : a.v[r * a.ld + c]);
}

struct case_data {
    case_matrix a, b, residual, pre;
    std::vector<uint16_t> bias;
    int across, ldc; /* columns of C */
    std::vector<float> before, after;
    unsigned char *c;
};

static double sum_of(const hopper_case &t, const case_data &p, int m, int n) {
    double s = 0;
    for (int k = 0; k < t.k; k++) s += element(p.a, t.trans_a, m, k) * element(p.b, !t.trans_b, k, n);
    return s;
}

/* What C[m, n] should be; *pre: NaN or the pre-activation of column n. */
static double wanted(const hopper_case &t, const case_data &p, int m, int n) {
    double v = sum_of(t, p, m, n);
    if (t.add) v += (double)p.before[(size_t)(m * p.ldc + n)];
    if (t.kind == HOPPER_PLAIN) return v;
    v += (double)f32_of(p.bias[(size_t)n]);
    if (t.kind == HOPPER_GATED)
        v = v / (1 + exp(-v)) *
            (sum_of(t, p, m, p.across + n) + (double)f32_of(p.bias[(size_t)(p.across + n)]));
    return t.f32 ? v : v + element(p.residual, 0, m, n);
}

static float stored(const hopper_case &t, const case_data &p, int m, int n) {
    float f;
    uint16_t h;
    const size_t at = (size_t)m * (size_t)p.ldc + (size_t)n;
    memcpy(&f, p.c + 4 * at, t.f32 ? 4 : 0);
    memcpy(&h, p.c + 2 * at, t.f32 ? 0 : 2);
    return t.f32 ? f : f32_of(h);
}

static case_data new_data(const hopper_case &t) {
    case_data p;
    p.a = t.trans_a ? new_matrix(t.k, t.m) : new_matrix(t.m, t.k);
    p.b = t.trans_b ? new_matrix(t.k, t.n) : new_matrix(t.n, t.k);
    p.across = t.kind == HOPPER_GATED ? t.n / 2 : t.n;
    p.ldc = (p.across + 7) / 8 * 8 + 8;
    p.residual = new_matrix(t.m, p.across);
    p.pre = new_matrix(t.m, t.n);
    for (int i = 0; i < t.n; i++) p.bias.push_back(bf16_of(case_number()));
    p.before.resize((size_t)(t.m * p.ldc));
    for (float &f : p.before) f = case_number();
    p.c = (unsigned char *)aligned_alloc(128, (p.before.size() * 4 + 127) / 128 * 128);
    for (size_t i = 0; i < p.before.size(); i++) {
        const uint16_t h = bf16_of(p.before[i]);
        memcpy(p.c + (t.f32 ? 4 : 2) * i, t.f32 ? (const void *)&p.before[i] : (const void *)&h,
               t.f32 ? 4 : 2);
    }
    return p;
}

static gemm_epi epilogue_of(const hopper_case &t, case_data &p) {
    weft_gemm_desc d;
    weft_epilogue e;
    memset(&d, 0, sizeof d);
    memset(&e, 0, sizeof e);
    d.m = t.m, d.n = t.n, d.k = t.k, d.ldc = p.ldc;
    d.a = d.b = WEFT_BF16;
    d.c = t.f32 ? WEFT_F32 : WEFT_BF16;
    d.gated = t.kind == HOPPER_GATED;
    d.beta = (uint8_t)t.add;
    e.bias = p.bias.data();
    if (!t.f32) {
        e.residual = p.residual.v, e.ldr = p.residual.ld;
        e.pre = p.pre.v, e.ldp = p.pre.ld;
    }
    return epi_of(&d, p.c, t.kind == HOPPER_PLAIN ? NULL : &e);
}

template <int columns, int trans_a, int trans_b, int kind, int f32>
static void compute(const hopper_case &t, case_data &p, int sms) {
    hopper_work w;
    CUtensorMap map[3];
    memset(&w, 0, sizeof w);
    w.m = t.m;
    w.columns_c = p.across;
    w.across = kind == HOPPER_GATED ? columns / 2 : columns;
    w.half = kind == HOPPER_GATED ? t.n / 2 : columns / 2;
    w.cluster = t.cluster;
    w.units_m = ((t.m + 127) / 128 + t.cluster - 1) / t.cluster;
    w.units_n = (p.across + w.across - 1) / w.across;
    w.together = 2;
    w.steps = (t.k + 63) / 64;
    w.splits = 1;
    w.steps_each = w.steps;
    w.add = t.add;
    hopper_matrix_map(p.a.v, WEFT_BF16, p.a.rows, p.a.cols, p.a.ld, trans_a ? 64 : 128, &map[0]);
    hopper_matrix_map(p.b.v, WEFT_BF16, p.b.rows, p.b.cols, p.b.ld, trans_b ? 64 : columns / 2, &map[1]);
    hopper_matrix_map(p.c, f32 ? WEFT_F32 : WEFT_BF16, t.m, p.across, p.ldc, 64, &map[2]);
    const gemm_epi e = epilogue_of(t, p);
    const int units = w.units_m * w.units_n, workers = sms / t.cluster;
    const unsigned blocks = (unsigned)((units < workers ? units : workers) * t.cluster);
    emu_run_grid("hopper_gemm", {blocks, 1, 1}, {HOPPER_THREADS, 1, 1}, {(unsigned)t.cluster, 1, 1},
                 hopper_tile<columns>::shared_bytes, [&] {
                     hopper_gemm_kernel<columns, trans_a, trans_b, kind, f32>(w, e, map[0], map[1], map[2]);
                 });
}

/* Elements of C (its gaps included) that are not what they should be. */
static int count_wrong(const hopper_case &t, const case_data &p) {
    int wrong = 0;
    for (int m = 0; m < t.m; m++)
        for (int n = 0; n < p.ldc; n++) {
            const float got = stored(t, p, m, n), was = p.before[(size_t)(m * p.ldc + n)];
            if (n >= p.across) {
                wrong += got != (t.f32 ? was : f32_of(bf16_of(was)));
                continue;
            }
            const double want = wanted(t, p, m, n);
            const double bound = 1e-4 + fabs(want) * (t.f32 ? 1e-5 : 0x1p-8);
            wrong += !(fabs((double)got - want) <= bound);
        }
    for (int m = 0; m < t.m && !t.f32 && t.kind != HOPPER_PLAIN; m++)
        for (int n = 0; n < t.n; n++) {
            const double want = sum_of(t, p, m, n) + (double)f32_of(p.bias[(size_t)n]);
            wrong += !(fabs((double)f32_of(p.pre.v[m * p.pre.ld + n]) - want) <= 1e-4 + fabs(want) * 0x1p-8);
        }
    return wrong;
}

template <int columns, int trans_a, int trans_b, int kind, int f32>
static int run_case(int cluster, int m, int n, int k, int add, int sms) {
    const hopper_case t = {columns, trans_a, trans_b, kind, f32, cluster, m, n, k, add};
    case_data p = new_data(t);
    compute<columns, trans_a, trans_b, kind, f32>(t, p, sms);
    const int wrong = count_wrong(t, p);
    if (wrong)
        printf("columns %d form %d%d kind %d f32 %d cluster %d m %d n %d k %d add %d: %d wrong\n", columns,
               trans_a, trans_b, kind, f32, cluster, m, n, k, add, wrong);
    free(p.a.v);
    free(p.b.v);
    free(p.residual.v);
    free(p.pre.v);
    free(p.c);
    return wrong;
}
