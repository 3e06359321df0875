/* The one tree over the ranks of a group: its shape fixes the bits of every sum, whoever computes them.
 *
 * Level l cuts the ranks into blocks of 2^l; the two blocks of a pair are merged, the left one is the left
 * operand, and a block without a partner is carried up. Which rank of a block holds its partial sum is free,
 * so each *class* k of messages picks other holders (bit l of k: the right block's holder does the merge at
 * level l). Messages that cycle through the classes spread the work over the ranks and give the same bits.
 * Class 0 is the binomial tree with root 0. Pure functions: no MPI here. */
#ifndef WEFT_COMM_TREE_H
#define WEFT_COMM_TREE_H

#include <stdint.h>

#define TREE_LEVELS 16 /* groups of up to 2^15 ranks */

typedef struct tree_child {
    int rank;      /* who sends us the partial sum */
    int lo, hi;    /* of which ranks: [lo, hi) */
    uint8_t right; /* it is the right operand */
} tree_child;

typedef struct tree_node {
    int parent; /* -1: this rank is the root */
    int lo, hi; /* the ranks whose sum we send to the parent */
    int nchild;
    tree_child child[TREE_LEVELS]; /* in the order of merging */
} tree_node;

/* The place of `rank` among `size` ranks in the tree of class k. */
void tree_place(int rank, int size, uint32_t k, tree_node *node);
/* The smallest power of two >= size: classes beyond it repeat. */
uint32_t tree_classes(int size);

#endif
