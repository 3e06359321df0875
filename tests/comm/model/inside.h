/* What the parts of the model share: programs made of instructions, the state, and its moves. */
#ifndef WEFT_TESTS_MODEL_INSIDE_H
#define WEFT_TESTS_MODEL_INSIDE_H

#include "comm/ticket.h"
#include "tests/comm/model/model.h"

#define NONE 0xff

typedef enum instr_kind {
    I_POST,  /* a bulk or an entry of a window */
    I_NUDGE, /* the rest of a weft call that does not wait: the engine has a look */
    I_CLOSE, /* the window of a reduction */
    I_WAIT,
    I_LAUNCH_HALO,
    I_ARRIVE, /* at a foreign call */
    I_STUCK,  /* in it */
    I_LAUNCH, /* a kernel of the application */
    I_SYNC_STREAM,
    I_SYNC_DEVICE,
    I_QUIET,
    I_DRAIN,
    I_LOUD,
    I_END,
} instr_kind;

typedef struct instr {
    instr_kind kind;
    int arg; /* operation or kernel */
} instr;

typedef struct kernel {
    int op; /* -1: the application's */
    unsigned members;
    int stream;
} kernel;

/* One rank; bytes only, so that states can be compared as memory. */
typedef struct rank_state {
    uint8_t pc, quiet, grace;
    uint8_t admitted, issued, message, told; /* of struct tickets */
    uint8_t posted[MODEL_OPS], pushed[MODEL_OPS];
    uint8_t record[MODEL_LATS];  /* of reduction i: the operations in its record; 0: not closed */
    uint8_t value[MODEL_LATS];   /* told in it */
    uint8_t open;                /* reductions posted, their window not closed: bit per operation */
    uint8_t taken;               /* bit per reduction: complete here */
    uint8_t handed;              /* down, by pulses: tickets up to this one */
    uint8_t nqueue, queue[8];    /* kernels launched, not started */
    uint8_t running[2], over[2]; /* bits of kernels */
} rank_state;

/* A program as the moves see it. */
typedef struct machine {
    model_rules rules;
    int nranks, nops, nslots, nkernels, rounds;
    int own_kernels[MODEL_RANKS]; /* the rank's application launches some */
    unsigned all;
    model_op op[MODEL_OPS];
    int first_kernel[MODEL_OPS], slot_of[MODEL_OPS], lat_of[MODEL_OPS], op_of_slot[MODEL_OPS],
        op_of_lat[MODEL_LATS];
    kernel kernel[MODEL_KERNELS];
    instr code[MODEL_RANKS][MODEL_STEPS];
    tickets t[MODEL_RANKS]; /* loaded from a state when asked */
} machine;

typedef enum move_kind {
    MOVE_HOST,
    MOVE_ISSUE,
    MOVE_PUSH,
    MOVE_TAKE,
    MOVE_PULSE,
    MOVE_ADMIT,
    MOVE_GRACE,
    MOVE_CLOCK,
    MOVE_START,
    MOVE_FINISH
} move_kind;

typedef struct move {
    uint8_t kind, rank, arg;
} move;

/* Compiles p; 0: it contradicts itself. Close with machine_close. */
int machine_open(machine *m, const model_program *p, const model_rules *r);
void machine_close(machine *m);
/* Whether the program ends if every operation is done as soon as its members posted it. */
int machine_could_end(const machine *m);

/* The reductions among the posted ones that close together with op. */
unsigned machine_window(const machine *m, unsigned open, int op);

/* Calls found(arg, state after, move) for every move out of s. */
void machine_moves(machine *m, const rank_state *s, void (*found)(void *, const rank_state *, move),
                   void *arg);
int machine_at_end(const machine *m, const rank_state *s);
void move_print(const machine *m, const rank_state *before, move v);
void machine_print_stuck(const machine *m, const rank_state *s);

static inline unsigned bits_of(const uint8_t b[2]) {
    return b[0] | (unsigned)b[1] << 8;
}
static inline int bit(const uint8_t b[2], int i) {
    return b[i / 8] >> (i % 8) & 1;
}

#endif
