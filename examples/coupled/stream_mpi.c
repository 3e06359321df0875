/* Plain MPI: the gradient in one MPI_Iallreduce when its last tensor is there, as large messages are fastest. */
#include "stream.h"

#include <stdio.h>
#include <stdlib.h>

struct stream {
    MPI_Comm comm;
    MPI_Request request;
    float *memory;
    size_t each;
    int tensors, left;
};

static stream *open_stream(comm *sim, int tensors, size_t each) {
    (void)sim;
    stream *s = calloc(1, sizeof *s);
    if (s) s->memory = malloc((size_t)tensors * each * sizeof(float));
    if (!s || !s->memory) {
        fprintf(stderr, "coupled: no memory for %d tensors of %zu floats\n", tensors, each);
        free(s);
        return NULL;
    }
    MPI_Comm_dup(MPI_COMM_WORLD, &s->comm);
    s->request = MPI_REQUEST_NULL;
    s->each = each;
    s->tensors = tensors;
    return s;
}

static float *tensor(stream *s, int i) {
    return s->memory + (size_t)i * s->each;
}

static int begin(stream *s) {
    s->left = s->tensors;
    return 0;
}

static int ready(stream *s, int i) {
    (void)i;
    if (--s->left) return 0;
    return MPI_Iallreduce(MPI_IN_PLACE, s->memory, (int)((size_t)s->tensors * s->each), MPI_FLOAT, MPI_SUM,
                          s->comm, &s->request) == MPI_SUCCESS
               ? 0
               : -1;
}

static int work(stream *s, int usec) {
    const double until = MPI_Wtime() + usec * 1e-6;
    int done = s->request == MPI_REQUEST_NULL;
    while (!done && MPI_Wtime() < until) MPI_Test(&s->request, &done, MPI_STATUS_IGNORE);
    return 0;
}

static int end(stream *s) {
    return MPI_Wait(&s->request, MPI_STATUS_IGNORE) == MPI_SUCCESS ? 0 : -1;
}

static void close_stream(stream *s) {
    MPI_Comm_free(&s->comm);
    free(s->memory);
    free(s);
}

const stream_ops stream_mpi = {"mpi", open_stream, tensor, begin, ready, work, end, close_stream};
