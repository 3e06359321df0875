/* Checkpoints against the disk and the memory that they use, in one run, one after the other on the same bytes:
 *
 *   save    weft_ckpt_save (written, synced, sealed, renamed)  raw: each rank pwrites its share of one file, fsync
 *                                                              hdf5: collective writes by parallel HDF5, then fsync
 *   stall   begin + staged of a save in the background         copy: memcpy of the same share into touched memory
 *   load    weft_ckpt_load of the same parts, of columns, and of ranges, out of the page cache's reach and inside it
 *                                                              raw: pread of the share
 *   digest  XXH3 of the share, as a part of the save and of the load
 *
 * Times are of the slowest rank. Every tensor is dirtied before a save; files of the rounds before are removed.
 *
 *   mpirun -n 2 bench_checkpoint [--dir DIR] [--mib N] [--rounds N] [--only save|raw] [--json]
 *
 * With --only every round is one save (or one raw write), printed by itself: a turn of peers/checkpoint_peers.py.
 */
#include <fcntl.h>
#include <hdf5.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "benchmarks/harness.h"
#include "io/container/digest.h"
#include "weft/ckpt.h"

enum { TENSORS = 16, COLUMNS = 4096, ROUNDS_MAX = 50, PIECE = 8 << 20 };

typedef enum what {
    SAVE,
    RAW,
    HDF5,
    STALL,
    COPY,
    LOAD,
    LOAD_RAW,
    WARM,
    WARM_RAW,
    COLUMN,
    RANGE,
    DIGEST,
    KINDS
} what;
static const char *const names[KINDS] = {
    "save",     "raw write",    "parallel HDF5",    "stall",           "copy",           "load",
    "raw read", "load, cached", "raw read, cached", "load as columns", "load as ranges", "digest"};

static int rank, ranks;
static char dir[4000];
static double times[KINDS][ROUNDS_MAX];
static int rounds = 5, filled[KINDS];
static int64_t rows; /* of a tensor, all ranks */
static float *mine;  /* this rank's rows of every tensor, one behind the other */
static size_t share; /* bytes of them */
static char *room;   /* as much again, touched */
static weft_ckpt_part part[TENSORS];
static char name[TENSORS][32];

static void fail(const char *where) {
    fprintf(stderr, "rank %d: %s: %s\n", rank, where, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void note(what k, double since) {
    double t = weft_now() - since, worst;
    MPI_Allreduce(&t, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (filled[k] < ROUNDS_MAX) times[k][filled[k]++] = worst;
}

static double start(void) {
    MPI_Barrier(MPI_COMM_WORLD);
    return weft_now();
}

static void dirty(int round) {
    for (size_t i = 0; i < share / 4; i++) mine[i] = (float)((i * 2654435761u + (size_t)round) & 0xffffff);
}

static void cut(int how) { /* 0: rows, 1: columns, 2: ranges */
    for (int i = 0; i < TENSORS; i++) {
        const int64_t lo = rows * rank / ranks, n = rows * (rank + 1) / ranks - lo;
        const int64_t c = COLUMNS * rank / ranks, m = COLUMNS * (rank + 1) / ranks - c;
        snprintf(name[i], sizeof name[i], "model/w%02d", i);
        part[i] = (weft_ckpt_part){.name = name[i], .dtype = WEFT_F32, .ndim = 2, .shape = {rows, COLUMNS}};
        part[i].ptr = (char *)mine + share / TENSORS * (size_t)i;
        if (how == 0) part[i].box = (weft_box){.ndim = 2, .off = {lo, 0}, .ext = {n, COLUMNS}};
        if (how == 1) part[i].box = (weft_box){.ndim = 2, .off = {0, c}, .ext = {rows, m}};
        if (how == 2) part[i].flat_lo = lo * COLUMNS, part[i].flat_hi = (lo + n) * COLUMNS;
    }
}

static void raw_write(const char *path) {
    const int fd = open(path, O_WRONLY | O_CREAT, 0644);
    if (fd < 0) fail(path);
    for (size_t at = 0; at < share; at += PIECE)
        if (weft_pwrite_all(fd, (char *)mine + at, share - at < PIECE ? share - at : PIECE,
                            (int64_t)(share * (size_t)rank + at), path) < 0)
            fail(path);
    if (fsync(fd) < 0) fail(path);
    close(fd);
}

static void raw_read(const char *path) {
    const int fd = open(path, O_RDONLY);
    if (fd < 0) fail(path);
    for (size_t at = 0; at < share; at += PIECE)
        if (weft_pread_all(fd, room + at, share - at < PIECE ? share - at : PIECE,
                           (int64_t)(share * (size_t)rank + at), path) < 0)
            fail(path);
    close(fd);
}

static void drop_cache(const char *path) {
    MPI_Barrier(MPI_COMM_WORLD);
    const int fd = open(path, O_RDONLY);
    if (fd < 0) return;
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void hdf5_write(const char *path) {
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS), all = H5Pcreate(H5P_DATASET_XFER);
    H5Pset_fapl_mpio(access, MPI_COMM_WORLD, MPI_INFO_NULL);
    H5Pset_dxpl_mpio(all, H5FD_MPIO_COLLECTIVE);
    const hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    const hsize_t size[2] = {(hsize_t)rows, COLUMNS};
    hsize_t off[2] = {(hsize_t)(rows * rank / ranks), 0}, ext[2] = {0, COLUMNS};
    ext[0] = (hsize_t)(rows * (rank + 1) / ranks) - off[0];
    for (int i = 0; i < TENSORS; i++) {
        const hid_t space = H5Screate_simple(2, size, NULL), here = H5Screate_simple(2, ext, NULL);
        const hid_t set = H5Dcreate2(f, strrchr(name[i], '/') + 1, H5T_NATIVE_FLOAT, space, H5P_DEFAULT,
                                     H5P_DEFAULT, H5P_DEFAULT);
        H5Sselect_hyperslab(space, H5S_SELECT_SET, off, NULL, ext, NULL);
        if (set < 0 || H5Dwrite(set, H5T_NATIVE_FLOAT, here, space, all, part[i].ptr) < 0) fail("HDF5");
        H5Dclose(set);
        H5Sclose(space);
        H5Sclose(here);
    }
    H5Fclose(f);
    H5Pclose(access);
    H5Pclose(all);
    const int fd = open(path, O_WRONLY);
    if (fd < 0 || fsync(fd) < 0) fail(path);
    close(fd);
}

static void load(weft_ckpt *c, int how, what k) {
    weft_ckpt_load_opts o = {.size = sizeof o};
    int64_t step = -1;
    cut(how);
    const double since = start();
    if (weft_ckpt_load(c, &step, part, TENSORS, &o, NULL) < 0) fail("load");
    note(k, since);
}

static void timed_save(weft_ckpt *c, int round) {
    const double since = start();
    if (weft_ckpt_save(c, round, part, TENSORS, NULL) < 0) fail("save");
    note(SAVE, since);
}

static void timed_raw_write(const char *path) {
    if (!rank) unlink(path);
    const double since = start();
    raw_write(path);
    note(RAW, since);
}

static void timed_hdf5_write(const char *path) {
    if (!rank) unlink(path);
    const double since = start();
    hdf5_write(path);
    note(HDF5, since);
}

static void round_of_one(weft_ckpt *c, what only, int round) {
    char raw[4100];
    snprintf(raw, sizeof raw, "%s/raw", dir);
    dirty(round);
    if (only == SAVE)
        timed_save(c, round);
    else
        timed_raw_write(raw);
}

static void round_of_all(weft_ckpt *c, int round) {
    char raw[4100], h5[4100], file[4200];
    double since;
    snprintf(raw, sizeof raw, "%s/raw", dir);
    snprintf(h5, sizeof h5, "%s/parallel.h5", dir);
    snprintf(file, sizeof file, "%s/ckpt/step_%010d/s000.h5", dir, round);
    dirty(round);
    cut(0);
    for (int turn = 0; turn < 3; turn++) { /* who goes first changes */
        switch ((turn + round) % 3) {
        case 0: timed_save(c, round); break;
        case 1: timed_raw_write(raw); break;
        default: timed_hdf5_write(h5);
        }
    }
    for (int turn = 0; turn < 2; turn++) {
        const int ours = (turn + round) % 2;
        drop_cache(ours ? file : raw);
        if (ours) load(c, 0, LOAD);
        since = start();
        if (!ours) raw_read(raw), note(LOAD_RAW, since);
    }
    since = start();
    raw_read(raw);
    note(WARM_RAW, since);
    load(c, 0, WARM);
    load(c, 1, COLUMN);
    load(c, 2, RANGE);
    cut(0);
    since = start();
    uint8_t h[WEFT_DIGEST_BYTES];
    weft_digest(mine, share, h);
    note(DIGEST, since);
    room[0] = (char)h[0];
    dirty(round + 1);
    since = start();
    memcpy(room, mine, share);
    note(COPY, since);
    since = start();
    if (weft_ckpt_begin(c, round + 1000, part, TENSORS, NULL) < 0 || weft_ckpt_staged(c, -1) < 0)
        fail("begin");
    note(STALL, since);
    if (weft_ckpt_wait(c, NULL) < 0) fail("wait");
}

static int by_time(const void *a, const void *b) {
    return *(const double *)a < *(const double *)b ? -1 : 1;
}

static double median(what k) {
    qsort(times[k], (size_t)filled[k], sizeof **times, by_time);
    return times[k][filled[k] / 2];
}

static void print(int json) {
    static const struct {
        what ours, theirs;
    } pairs[] = {{SAVE, RAW},    {SAVE, HDF5},  {STALL, COPY},  {LOAD, LOAD_RAW}, {WARM, WARM_RAW},
                 {COLUMN, WARM}, {RANGE, WARM}, {DIGEST, SAVE}, {DIGEST, LOAD}};
    const double mib = (double)share * ranks / 1048576;
    if (!json) printf("%d ranks, %.0f MiB, %d rounds, median (least to most)\n", ranks, mib, rounds);
    for (int k = 0; k < KINDS; k++) {
        const double t = median((what)k);
        if (json)
            printf("{\"what\": \"%s\", \"mib\": %.0f, \"seconds\": %.5f, \"least\": %.5f, \"most\": %.5f}\n",
                   names[k], mib, t, times[k][0], times[k][filled[k] - 1]);
        else
            printf("  %-18s %8.1f ms  (%.1f to %.1f)  %8.0f MiB/s\n", names[k], 1e3 * t, 1e3 * times[k][0],
                   1e3 * times[k][filled[k] - 1], mib / t);
    }
    for (size_t i = 0; !json && i < sizeof pairs / sizeof *pairs; i++)
        printf("  %s / %s: time x %.2f\n", names[pairs[i].ours], names[pairs[i].theirs],
               median(pairs[i].ours) / median(pairs[i].theirs));
}

static void print_rounds(what only, int json) {
    const double mib = (double)share * ranks / 1048576;
    for (int i = 0; i < filled[only]; i++) {
        const double t = times[only][i];
        if (json)
            printf("{\"what\": \"%s\", \"mib\": %.0f, \"round\": %d, \"seconds\": %.5f}\n", names[only], mib,
                   i, t);
        else
            printf("  %-18s %8.1f ms  %8.0f MiB/s\n", names[only], 1e3 * t, mib / t);
    }
}

int main(int argc, char **argv) {
    int level, json = 0;
    what only = KINDS; /* all of them */
    int64_t mib = 1024;
    const char *where = "/tmp";
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            json = 1;
        else if (i + 1 < argc && !strcmp(argv[i], "--dir"))
            where = argv[++i];
        else if (i + 1 < argc && !strcmp(argv[i], "--mib"))
            mib = atoll(argv[++i]);
        else if (i + 1 < argc && !strcmp(argv[i], "--rounds"))
            rounds = atoi(argv[++i]);
        else if (i + 1 < argc && !strcmp(argv[i], "--only") && !strcmp(argv[i + 1], "save"))
            only = SAVE, i++;
        else if (i + 1 < argc && !strcmp(argv[i], "--only") && !strcmp(argv[i + 1], "raw"))
            only = RAW, i++;
        else {
            if (!rank)
                fprintf(stderr, "usage: mpirun -n N bench_checkpoint [--dir DIR] [--mib N] [--rounds N] "
                                "[--only save|raw] [--json]\n");
            MPI_Finalize();
            return 64;
        }
    }
    if (rounds < 1 || rounds > ROUNDS_MAX) rounds = 5;
    rows = mib * 1048576 / 4 / COLUMNS / TENSORS / ranks * ranks;
    share = (size_t)(rows / ranks * COLUMNS * 4) * TENSORS;
    mine = aligned_alloc(4096, share);
    room = aligned_alloc(4096, share);
    if (!mine || !room || rows < 1) fail("memory");
    memset(room, 1, share);
    snprintf(dir, sizeof dir, "%s/weft-bench-XXXXXX", where);
    if (!rank && !mkdtemp(dir)) fail(where);
    MPI_Bcast(dir, sizeof dir, MPI_CHAR, 0, MPI_COMM_WORLD);
    weft_ctx *ctx;
    weft_group *g;
    weft_ckpt *c = NULL;
    char root[4100];
    const weft_ckpt_opts o = {.size = sizeof o, .keep = 1, .files = 1};
    snprintf(root, sizeof root, "%s/ckpt", dir);
    if (weft_init(MPI_COMM_WORLD, NULL, &ctx) < 0 || weft_group_create(ctx, MPI_COMM_WORLD, "all", &g) < 0 ||
        weft_ckpt_open(g, root, &o, &c) < 0)
        fail("start");
    cut(0);
    if (weft_ckpt_plan(c, part, TENSORS) < 0) fail("plan");
    for (int i = 0; i < rounds; i++) {
        if (only == KINDS)
            round_of_all(c, i);
        else
            round_of_one(c, only, i);
    }
    weft_ckpt_close(c);
    if (!rank && only == KINDS) print(json);
    if (!rank && only != KINDS) print_rounds(only, json);
    MPI_Barrier(MPI_COMM_WORLD);
    if (!rank) weft_remove_tree(dir);
    weft_finalize(&ctx, -1);
    MPI_Finalize();
    return 0;
}
