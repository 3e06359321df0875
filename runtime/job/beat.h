/* Heartbeats of agents and the supervisor's answers: two datagrams, little-endian, under a check sum. Pure.
 *
 * The token (128 random bits of a job, WEFT_TOKEN in the environment of its steps) keeps strangers and other jobs out. An
 * agent sends a beat each second; the supervisor answers each. Nothing is lost with a datagram: each says all there is
 * to say, and no answer means that the last deadline stands. */
#ifndef WEFT_RUNTIME_JOB_BEAT_H
#define WEFT_RUNTIME_JOB_BEAT_H

#include <stddef.h>
#include <stdint.h>

enum { JOB_BEAT_BYTES = 96, JOB_ANSWER_BYTES = 48, JOB_TOKEN_TEXT = 33 };

/* Of a beat. All but WAITS are about the order of `epoch` below. */
enum {
    JOB_BEAT_STRAY = 1 << 0,    /* a rank of the old step still lives, though it was killed */
    JOB_BEAT_HEALTH = 1 << 1,   /* the quick check has ended */
    JOB_BEAT_DEGRADED = 1 << 2, /* with 1 */
    JOB_BEAT_UNFIT = 1 << 3,    /* with 2 or worse: nothing may be started here */
    JOB_BEAT_WAITS =
        1
        << 4, /* a rank waits for others outside the job, and looks for them all the time: it does not hang */
};

typedef struct job_beat {
    uint16_t node, flags; /* node: as numbered by WEFT_NODES (agent.h) */
    uint64_t token[2];
    uint64_t boot;               /* of this node: changes when it was started anew */
    uint64_t min_step, max_step; /* completed by the live ranks of the node */
    uint64_t mono_ns;            /* the agent's clock */
    uint32_t live_ranks;
    uint32_t epoch; /* the last order that was carried out: no rank of before lives, stale memory is gone */
    uint64_t saved; /* least step of a committed checkpoint + 1 of live ranks; 0: none */
    uint64_t step_ns, save_ns; /* most of live ranks */
    uint16_t dead_ranks;       /* went without leaving since the last order (at most 65535) */
    uint16_t phase;            /* of the rank that is least far */
} job_beat;

/* Orders of an answer. CLEAN and HEALTH are carried out once for each epoch that is greater than the last. */
enum {
    JOB_ORDER_CLEAN =
        1 << 0, /* no rank may live: kill those of the page, remove what they left in shared memory */
    JOB_ORDER_HEALTH = 1 << 1, /* run the quick health check */
    JOB_ORDER_END = 1 << 2,    /* the agent ends */
};

typedef struct job_answer {
    uint32_t orders, epoch;
    uint64_t token[2];
    uint64_t stop;        /* for the page: enum weft_stop_why */
    int64_t remaining_ms; /* -1: not known */
} job_answer;

void job_beat_pack(const job_beat *b, uint8_t to[JOB_BEAT_BYTES]);
void job_answer_pack(const job_answer *a, uint8_t to[JOB_ANSWER_BYTES]);
/* 1: a whole datagram of that kind with this token. 0: anything else; *b is then zeroed. */
int job_beat_unpack(const void *from, size_t bytes, const uint64_t token[2], job_beat *b);
int job_answer_unpack(const void *from, size_t bytes, const uint64_t token[2], job_answer *a);

/* 128 random bits; 0: the system has none. As 32 hexadecimal digits, and back (1: they were). */
int job_token_make(uint64_t token[2]);
void job_token_text(const uint64_t token[2], char text[JOB_TOKEN_TEXT]);
int job_token_read(const char *text, uint64_t token[2]);

#endif
