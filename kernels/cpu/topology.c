/* Caches, cores and the processor's name, from hwloc. What hwloc does not know stays 0 or empty; cores is at
 * least 1. */
#include <hwloc.h>
#include <stdio.h>

#include "kernels/cpu/cpu.h"

static size_t cache_bytes(hwloc_topology_t t, hwloc_obj_type_t type) {
    hwloc_obj_t o = hwloc_get_obj_by_type(t, type, 0);
    return o && o->attr ? (size_t)o->attr->cache.size : 0;
}

/* One allowed processing unit of every core (or of every unit, where no cores are known). */
static void list_cores(hwloc_topology_t t, hwloc_const_bitmap_t allowed, struct cpu_backend *b) {
    hwloc_bitmap_t both = hwloc_bitmap_alloc();
    hwloc_obj_type_t type = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    hwloc_obj_t o = NULL;
    while (both && b->pus < (int)(sizeof b->pu / sizeof *b->pu) &&
           (o = hwloc_get_next_obj_by_type(t, type, o))) {
        hwloc_bitmap_and(both, o->cpuset, allowed);
        if (!hwloc_bitmap_iszero(both)) b->pu[b->pus++] = hwloc_bitmap_first(both);
    }
    hwloc_bitmap_free(both);
}

static void read_topology(hwloc_topology_t t, struct cpu_backend *b) {
    hwloc_obj_t package = hwloc_get_obj_by_type(t, HWLOC_OBJ_PACKAGE, 0);
    const char *model = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
    hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
    if (model) snprintf(b->desc.model, sizeof b->desc.model, "%s", model);
    b->desc.l1d = cache_bytes(t, HWLOC_OBJ_L1CACHE);
    b->desc.l2 = cache_bytes(t, HWLOC_OBJ_L2CACHE);
    b->desc.l3 = cache_bytes(t, HWLOC_OBJ_L3CACHE);
    if (allowed && hwloc_get_cpubind(t, allowed, HWLOC_CPUBIND_THREAD) == 0) list_cores(t, allowed, b);
    hwloc_bitmap_free(allowed);
}

void cpu_read_topology(struct cpu_backend *b) {
    hwloc_topology_t t;
    if (hwloc_topology_init(&t) == 0) {
        if (hwloc_topology_load(t) == 0) read_topology(t, b);
        hwloc_topology_destroy(t);
    }
    b->desc.cores = b->pus > 0 ? b->pus : 1;
}
