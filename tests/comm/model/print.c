/* The way to a dead state, for people. */
#include <stdio.h>

#include "tests/comm/model/inside.h"

static const char *kernel_name(const machine *m, int k, char text[32]) {
    const int op = m->kernel[k].op;
    if (op < 0) {
        snprintf(text, 32, "the application's kernel");
    } else {
        snprintf(text, 32, "kernel %c.%d", m->op[op].name, k - m->first_kernel[op] + 1);
    }
    return text;
}

static void print_instruction(const machine *m, const instr *i) {
    char text[32];
    const char x = i->kind == I_LAUNCH || i->kind == I_SYNC_STREAM ? '?' : m->op[i->arg].name;
    switch (i->kind) {
    case I_POST: printf("posts %c", x); break;
    case I_NUDGE: printf("returns from the call"); break;
    case I_CLOSE: printf("closes the window of %c", x); break;
    case I_WAIT: printf("has waited for %c", x); break;
    case I_LAUNCH_HALO: printf("starts the halo %c", x); break;
    case I_ARRIVE: printf("calls the foreign %c", x); break;
    case I_STUCK: printf("returns from the foreign %c", x); break;
    case I_LAUNCH: printf("launches %s", kernel_name(m, i->arg, text)); break;
    case I_SYNC_STREAM: printf("has waited for its own stream"); break;
    case I_SYNC_DEVICE: printf("has waited for its device"); break;
    case I_QUIET: printf("turns quiet"); break;
    case I_DRAIN: printf("has drained"); break;
    case I_LOUD: printf("ends its quiet"); break;
    case I_END: break;
    }
}

void move_print(const machine *m, const rank_state *before, move v) {
    char text[32];
    if (v.kind == MOVE_FINISH) {
        printf("    devices finish %s\n", kernel_name(m, v.arg, text));
        return;
    }
    printf("    rank %d ", v.rank);
    switch (v.kind) {
    case MOVE_HOST: print_instruction(m, &m->code[v.rank][before[v.rank].pc]); break;
    case MOVE_ISSUE: printf("issues %s", kernel_name(m, v.arg, text)); break;
    case MOVE_PUSH: printf("moves its piece of %c", m->op[v.arg].name); break;
    case MOVE_TAKE: printf("has the result of %c", m->op[v.arg].name); break;
    case MOVE_PULSE: printf("tells of tickets up to %d", v.arg); break;
    case MOVE_ADMIT: printf("learns that tickets up to %d are admitted", v.arg); break;
    case MOVE_GRACE: printf("has been quiet for too long"); break;
    case MOVE_CLOCK: printf("closes the window of %c by the clock", m->op[v.arg].name); break;
    case MOVE_START: printf("has its device start %s", kernel_name(m, v.arg, text)); break;
    default: break;
    }
    printf("\n");
}

static void print_wait(const machine *m, const instr *i) {
    char text[32];
    switch (i->kind) {
    case I_WAIT: printf("waits for %c", m->op[i->arg].name); break;
    case I_LAUNCH_HALO: printf("cannot start the halo %c", m->op[i->arg].name); break;
    case I_STUCK: printf("is blocked in the foreign %c", m->op[i->arg].name); break;
    case I_SYNC_STREAM: printf("waits for %s", kernel_name(m, i->arg, text)); break;
    case I_SYNC_DEVICE: printf("waits for its device"); break;
    case I_DRAIN: printf("drains"); break;
    case I_END: printf("is at the end"); break;
    default: printf("can go on"); break;
    }
}

void machine_print_stuck(const machine *m, const rank_state *s) {
    char text[32];
    for (int r = 0; r < m->nranks; r++) {
        printf("    -> rank %d ", r);
        print_wait(m, &m->code[r][s[r].pc]);
        for (int k = 0; k < m->nkernels; k++)
            if (bit(s[r].running, k)) printf("; its device is held by %s", kernel_name(m, k, text));
        for (int q = 0; q < s[r].nqueue; q++) printf("; %s is queued", kernel_name(m, s[r].queue[q], text));
        printf("\n");
    }
}
