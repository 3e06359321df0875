/* The symmetric heap: weft_mem_alloc. Blocks of a group, of which every rank of a node owns an equal part and sees all;
 * a place in it means the same on all of them. */
#ifndef WEFT_COMM_SHM_HEAP_H
#define WEFT_COMM_SHM_HEAP_H

#include <stddef.h>
#include <stdint.h>

#include "weft/comm.h"

typedef struct heap heap;

/* A place in this rank's part of the heap, or HEAP_NONE. The same place of another rank's part is found with heap_at. */
typedef uint64_t heap_place;
#define HEAP_NONE ((heap_place)0)

/* Where the `bytes` at p are; HEAP_NONE if they are not (all) in one block of g's heap. */
heap_place heap_find(const weft_group *g, const void *p, size_t bytes);
/* Address, here, of a place of member `local` of the node (an index of g->node.rank). */
void *heap_at(const weft_group *g, heap_place place, int local);
void heap_destroy(weft_group *g);

#endif
