/* The bulk tensor copy engine: maps, loads, multicast, stores, adds; see hopper_model.h. */
#include "tests/cuda/emulator/hopper_state.h"

#include <string.h>

#define MAP_MAGIC 0x70616d616d743155u
#define MAP_RANK  5

/* What the emulator's CUtensorMap holds. Strides in bytes; stride[0] is an element. */
struct tma_map {
    uint64_t magic;
    unsigned char *base;
    uint32_t size[MAP_RANK];
    uint16_t box[MAP_RANK];
    uint8_t rank, element, swizzle, is_float;
    uint64_t stride[MAP_RANK];
};
static_assert(sizeof(tma_map) <= sizeof(CUtensorMap), "it holds one");

/* The conditions of cuTensorMapEncodeTiled. */
CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, uint32_t rank, void *base,
                                const uint64_t *size, const uint64_t *stride_bytes, const uint32_t *box,
                                const uint32_t *element_stride, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill) {
    tma_map m;
    memset(&m, 0, sizeof m);
    m.element = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
    (void)promotion;
    if (type != CU_TENSOR_MAP_DATA_TYPE_FLOAT32 && type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16)
        return CUDA_ERROR_INVALID_VALUE;
    if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
        return CUDA_ERROR_INVALID_VALUE;
    if (rank < 1 || rank > MAP_RANK || !base || (uintptr_t)base % 16 || (uintptr_t)map % 64)
        return CUDA_ERROR_INVALID_VALUE;
    m.stride[0] = m.element;
    for (uint32_t i = 0; i < rank; i++) {
        if (!size[i] || size[i] > (uint64_t)1 << 32 || !box[i] || box[i] > 256 || element_stride[i] != 1)
            return CUDA_ERROR_INVALID_VALUE;
        if (i) {
            m.stride[i] = stride_bytes[i - 1];
            if (m.stride[i] % 16 || m.stride[i] >= (uint64_t)1 << 40) return CUDA_ERROR_INVALID_VALUE;
        }
        m.size[i] = (uint32_t)(size[i] - 1);
        m.box[i] = (uint16_t)box[i];
    }
    if (box[0] * m.element % 16) return CUDA_ERROR_INVALID_VALUE;
    if (swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * m.element > 128) return CUDA_ERROR_INVALID_VALUE;
    m.magic = MAP_MAGIC;
    m.base = (unsigned char *)base;
    m.rank = (uint8_t)rank;
    m.swizzle = (uint8_t)swizzle;
    memset(map, 0, sizeof *map);
    memcpy(map, &m, sizeof m);
    return CUDA_SUCCESS;
}

static tma_map read_map(const CUtensorMap *map, const char *user) {
    tma_map m;
    memcpy(&m, map, sizeof m);
    if (m.magic != MAP_MAGIC) emu_die("%s: no tensor map", user);
    return m;
}

static uint32_t box_bytes(const tma_map *m) {
    uint32_t n = m->element;
    for (int i = 0; i < m->rank; i++) n *= m->box[i];
    return n;
}

/* fn(place in global memory or NULL outside, offset in shared memory) for every 16 bytes of a row of the box, of which
 * `there` exist in global memory. */
template <class F> static void each_piece(const tma_map *m, const int *at, uint32_t shared, F fn) {
    const uint32_t row = (uint32_t)m->box[0] * m->element, rows = box_bytes(m) / row;
    for (uint32_t r = 0; r < rows; r++) {
        unsigned char *p = m->base;
        bool inside = true;
        uint32_t rest = r;
        for (int i = 1; i < m->rank; i++) {
            const int64_t c = at[i] + (int64_t)(rest % m->box[i]);
            rest /= m->box[i];
            inside &= c >= 0 && c <= (int64_t)m->size[i];
            p += c * (int64_t)m->stride[i];
        }
        for (uint32_t x = 0; x < row; x += m->element) {
            const int64_t c = at[0] + (int64_t)(x / m->element);
            uint32_t to = shared + r * row + x;
            /* the pattern follows the address, not the tile */
            if (m->swizzle == CU_TENSOR_MAP_SWIZZLE_128B) to ^= (to >> 3 & 0x70);
            fn(inside && c >= 0 && c <= (int64_t)m->size[0] ? p + c * m->element : NULL, to);
        }
    }
}

static void check_box(const tma_map *m, int rank, uint32_t shared, const char *user) {
    if (rank != m->rank) emu_die("%s: %d coordinates for a map of rank %d", user, rank, m->rank);
    if (shared % 128) emu_die("%s: shared memory at %u is not 128-aligned", user, shared);
    if (m->swizzle == CU_TENSOR_MAP_SWIZZLE_128B && (m->box[0] * m->element != 128 || shared % 1024))
        emu_die("%s: a swizzled box of %d bytes a row at %u; expected 128 bytes and 1024-aligned", user,
                m->box[0] * m->element, shared);
}

void tma_prefetch_map(const CUtensorMap *map) {
    (void)read_map(map, "prefetch.tensormap");
}

/* Brings the box into block b. */
static void deliver(const tma_map &m, const int *at, emu_block *b, uint32_t dst, uint32_t bar) {
    if (b->ended == b->nthreads) emu_die("a TMA load arrives after its block has ended");
    each_piece(&m, at, dst, [&](const unsigned char *from, uint32_t to) {
        if (from)
            memcpy(b->shared + to, from, m.element);
        else
            memset(b->shared + to, 0, m.element);
    });
    hopper_complete_tx(b, bar, box_bytes(&m));
}

void emu_tma_load(void *dst, const CUtensorMap *map, uint64_t *bar, uint32_t mask, int rank,
                  const int *coordinates) {
    const tma_map m = read_map(map, "TMA load");
    const uint32_t to = hopper_offset(dst, box_bytes(&m), "TMA load"),
                   barrier = hopper_offset(bar, 8, "TMA load");
    check_box(&m, rank, to, "TMA load");
    if (!mask) mask = 1u << emu_self->block->rank;
    if (mask >> emu_cluster_size())
        emu_die("TMA multicast to mask %x in a cluster of %u", mask, emu_cluster_size());
    std::vector<int> at(coordinates, coordinates + rank);
    for (unsigned cta = 0; cta < emu_cluster_size(); cta++) {
        if (!(mask >> cta & 1)) continue;
        emu_block *b = emu_cluster_block(cta);
        static uintptr_t queue; /* every load is one of its own: they overtake each other */
        hopper_check_barrier(b, barrier, "TMA load");
        memset(b->shared + to, 0xFF, box_bytes(&m));
        memset(&hopper_of(b)->writer[to / 16], 0, box_bytes(&m) / 16 * sizeof(uint16_t));
        queue += 2;
        emu_defer((const void *)(queue | 1), [=] { deliver(m, at.data(), b, to, barrier); });
    }
}

/* --- stores --- */

void emu_tma_store(const CUtensorMap *map, const void *src, int add, int rank, const int *coordinates) {
    const tma_map m = read_map(map, "TMA store");
    const uint32_t from = hopper_offset(src, box_bytes(&m), "TMA store");
    check_box(&m, rank, from, "TMA store");
    if (add && m.element != 4) emu_die("TMA add: only f32 is modelled");
    hopper_check_fenced(hopper_self(), from, box_bytes(&m), "TMA store");
    std::shared_ptr<hopper_store> s(new hopper_store());
    s->map = *map;
    s->add = add;
    s->src = from;
    memcpy(s->at, coordinates, (size_t)rank * sizeof(int));
    s->seen.assign((const unsigned char *)src, (const unsigned char *)src + box_bytes(&m));
    hopper_my()->open.push_back(s);
}

void tma_commit(void) {
    hopper_thread *t = hopper_my();
    t->group.push_back(t->open);
    t->open.clear();
}

static void write_out(const std::shared_ptr<hopper_store> &s) {
    const tma_map m = read_map(&s->map, "TMA store");
    const unsigned char *seen = s->seen.data();
    each_piece(&m, s->at, s->src, [&](unsigned char *to, uint32_t from) {
        float sum, v;
        if (!to) return;
        if (!s->add) {
            memcpy(to, seen + from - s->src, m.element);
            return;
        }
        memcpy(&v, seen + from - s->src, sizeof v);
        memcpy(&sum, to, sizeof sum);
        sum += v;
        memcpy(to, &sum, sizeof sum);
    });
    s->written = true;
}

static void read_source(const std::shared_ptr<hopper_store> &s, unsigned char *shared) {
    if (s->read) return;
    if (memcmp(shared + s->src, s->seen.data(), s->seen.size()) != 0)
        emu_die("the source of a TMA store at %u was written before tma_wait_read", s->src);
    s->read = true;
    emu_defer(s.get(), [s] { write_out(s); });
}

static bool group_written(void *arg) {
    for (const std::shared_ptr<hopper_store> &s : *(hopper_store_group *)arg)
        if (!s->written) return false;
    return true;
}

void emu_tma_wait(int groups, int written) {
    hopper_thread *t = hopper_my();
    for (size_t i = 0; i + (size_t)groups < t->group.size(); i++) {
        for (const std::shared_ptr<hopper_store> &s : t->group[i]) read_source(s, emu_self->block->shared);
        if (written) emu_wait(group_written, &t->group[i], "TMA stores to be written");
    }
    while (!t->group.empty() && group_written(&t->group.front())) t->group.pop_front();
}
