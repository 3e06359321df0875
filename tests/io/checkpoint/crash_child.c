/* The victim of test_crash: saves versions 1..N of its tensors as checkpoints of these steps and notes each one that it was
 * told is saved. Usage: crash_child ROOT ACKS N */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/io/checkpoint/ckpt_case.h"

static int fails(const char *what) {
    fprintf(stderr, "%s: %s\n", what, weft_last_error());
    return 1;
}

/* One byte a saved checkpoint, and it stays. */
static void acknowledge(const char *path, int64_t step) {
    const char c = (char)step;
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0 || write(fd, &c, 1) != 1 || fsync(fd) < 0) _exit(3);
    close(fd);
}

int main(int argc, char **argv) {
    int level, rank;
    weft_ctx *ctx;
    weft_group *g;
    weft_ckpt *c;
    weft_ckpt_opts o = {.size = sizeof o, .keep = 2, .segment_bytes = 65536};
    case_parts p;
    if (argc != 4) return 2;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    const weft_comm_opts co = {.size = sizeof co, .timeout_ms = 300000};
    if (weft_init(MPI_COMM_WORLD, &co, &ctx) < 0 || weft_group_create(ctx, MPI_COMM_WORLD, "all", &g) < 0)
        return fails("start");
    if (weft_ckpt_open(g, argv[1], &o, &c) < 0) return fails("open");
    case_make(7, rank, weft_group_size(g), &p);
    for (int64_t step = 1; step <= atoi(argv[3]); step++) {
        case_fill(&p, step);
        weft_status s = step % 2 ? weft_ckpt_begin(c, step, p.part, p.n, NULL)
                                 : weft_ckpt_save(c, step, p.part, p.n, NULL);
        if (s == WEFT_OK && step % 2) s = weft_ckpt_staged(c, -1);
        if (s == WEFT_OK && step % 2) case_scribble(&p);
        if (s == WEFT_OK) s = weft_ckpt_wait(c, NULL);
        if (s == WEFT_OK && !rank) acknowledge(argv[2], step);
        if (s < 0 && s <= WEFT_ERR_ORDER && s >= WEFT_ERR_LINK) return fails("save");
    }
    weft_ckpt_close(c);
    weft_finalize(&ctx, -1);
    MPI_Finalize();
    return 0;
}
