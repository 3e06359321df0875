/* The training side: a gradient of `tensors` equal tensors that is summed over the ranks again and again, as a backward
 * pass makes it: tensor by tensor, the last one first. stream_weft.c and stream_mpi.c. Functions return 0, or -1 after a
 * message on stderr; all but `work` are collective. */
#ifndef COUPLED_STREAM_H
#define COUPLED_STREAM_H

#include <stddef.h>

#include "../shallow_water/comm.h"

typedef struct stream stream;

typedef struct stream_ops {
    const char *name;
    /* sim: the communication of the simulation in the same ranks. */
    stream *(*open)(comm *sim, int tensors, size_t floats_each);
    float *(*tensor)(stream *s, int i);
    int (*begin)(stream *s);
    int (*ready)(stream *s, int i);   /* tensor i is final here */
    int (*work)(stream *s, int usec); /* a chance to make progress */
    int (*end)(stream *s);            /* all tensors hold the sum */
    void (*close)(stream *s);         /* before the simulation closes its communication */
} stream_ops;

extern const stream_ops stream_mpi;
extern const stream_ops stream_weft;

#endif
