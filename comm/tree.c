/* The shape of the reduction tree; see tree.h. */
#include "comm/tree.h"

uint32_t tree_classes(int size) {
    uint32_t n = 1;
    while (n < (uint32_t)size) n *= 2;
    return n;
}

/* Who holds the partial sum of block b of level l. */
static int holder(int l, int b, int size, uint32_t k) {
    while (l > 0) {
        l--;
        b *= 2;
        int right_exists = ((int64_t)(b + 1) << l) < size;
        if (right_exists && (k >> l & 1)) b++;
    }
    return b;
}

static int block_end(int l, int b, int size) {
    int64_t end = ((int64_t)b + 1) << l;
    return end < size ? (int)end : size;
}

void tree_place(int rank, int size, uint32_t k, tree_node *node) {
    node->parent = -1;
    node->nchild = 0;
    int l = 0;
    for (; ((int64_t)1 << l) < size; l++) {
        int mine = rank >> l, other = mine ^ 1;
        if (((int64_t)other << l) >= size) continue; /* no partner: carried up */
        int partner = holder(l, other, size, k);
        int right_holds = k >> l & 1, we_are_right = mine & 1;
        if (right_holds != we_are_right) {
            node->parent = partner;
            break;
        }
        tree_child *c = &node->child[node->nchild++];
        c->rank = partner;
        c->lo = other << l;
        c->hi = block_end(l, other, size);
        c->right = (uint8_t)!we_are_right;
    }
    node->lo = rank >> l << l;
    node->hi = block_end(l, rank >> l, size);
}
