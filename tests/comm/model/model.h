/* A model of ranks that fuse reductions, bulks and device collectives, small enough to walk through all interleavings.
 *
 * A program is a few operations and, for each rank, a text of what it does in order:
 *
 *   +X   posts operation X (a bulk: started, all tensors ready; a reduction: put into its open window)
 *   X    waits for it (a reduction: closes the window first). F, a foreign blocking call, only has this form
 *   c    launches a kernel of the application and waits for its stream
 *   d    waits for the whole device
 *   q Q  weft_quiet on, off
 *
 * Every rank has a device with K slots. Kernels enter first-in-first-out streams, take a slot in any order of the
 * streams' heads, and one of a collective keeps its slot until all members run it. Inside weft calls, and only there,
 * a rank's engine does any of its actions in any order; whether and which device operation it issues is asked of the
 * engine's own comm/ticket.c. Rules can be dropped one by one.
 *
 * Explored breadth first, so the way to the first dead state is a shortest one. */
#ifndef WEFT_TESTS_MODEL_H
#define WEFT_TESTS_MODEL_H

#include <stddef.h>
#include <stdint.h>

#define MODEL_RANKS   4
#define MODEL_OPS     6
#define MODEL_STEPS   40 /* instructions of a rank */
#define MODEL_KERNELS 15
#define MODEL_LATS    3

typedef enum op_kind {
    OP_END,     /* of the list */
    OP_DEVICE,  /* bulk by kernels that wait for each other */
    OP_HOST,    /* bulk by messages */
    OP_LAT,     /* reduction of at most 4 KiB; those of the same members share windows */
    OP_HALO,    /* exchange by kernels, started where the program says */
    OP_FOREIGN, /* a blocking call of another library, e.g. MPI_Barrier */
} op_kind;

typedef struct model_op {
    char name;
    op_kind kind;
    unsigned members; /* bit per rank */
    int messages;     /* of a DEVICE bulk; 0: 1 */
} model_op;

typedef struct model_rules {
    int slots, credit;
    int one_order;  /* R2: tickets are issued in order */
    int all_posted; /* R3: not before all members posted */
    int one_stream; /* all tickets through one stream of the device */
    int grace;      /* a quiet rank that waits long resumes its bulks */
    int drains;     /* weft_quiet waits for what is issued */
    int shim;       /* foreign MPI calls make progress */
    int clock;      /* windows also close by time */
    int pulses;     /* agreement by messages of its own; without: at the waits of reductions only */
    /* Not a rule of weft: of moves that commute with everything else only one is followed. Finds the same dead states by
     * fewer ways (Godefroid 1996, persistent sets; no state comes back, so none is put off for ever). */
    int reduced;
} model_rules;

/* As weft is built. */
#define MODEL_RULES                                                                                          \
    {                                                                                                        \
        .slots = 1, .credit = 2, .one_order = 1, .all_posted = 1, .one_stream = 1, .grace = 1, .shim = 1,    \
        .pulses = 1                                                                                          \
    }

typedef struct model_program {
    const char *name;
    model_op op[MODEL_OPS + 1];
    const char *rank[MODEL_RANKS + 1];
} model_program;

typedef enum model_verdict {
    MODEL_LIVE, /* no dead state but the end */
    MODEL_DEAD,
    MODEL_CUT, /* the table is full */
    MODEL_REFUSED, /* the program contradicts itself, or cannot end even if every operation were done as soon as all
                    * its members posted it (and, for one with a ticket, all tickets before it) */
} model_verdict;

typedef struct model model;

/* Room for `states`; NULL without memory. */
model *model_create(size_t states);
void model_destroy(model *m);
/* Bytes of a state, and of all tables. */
size_t model_bytes(const model *m);

/* *states: visited, *depth: of the last one. */
model_verdict model_explore(model *m, const model_program *p, const model_rules *r, size_t *states,
                            int *depth);
/* After MODEL_DEAD: the shortest way there, and what stands still. */
void model_print(const model *m);

#endif
