/* Checkpoints of many ranks: what was saved comes back bit for bit in any layout on any number of ranks; what fails leaves
 * the earlier ones; what is damaged is found before it is used. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "comm/ctrl.h"
#include "io/checkpoint/dir.h"
#include "io/checkpoint/reader.h"
#include "tests/io/checkpoint/ckpt_case.h"

static weft_ctx *context;
static weft_group *world;

static int begin(void **state) {
    (void)state;
    context = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_ok(weft_group_create(context, MPI_COMM_WORLD, "world", &world));
    return 0;
}

static int end(void **state) {
    (void)state;
    mpi_test_finalize(context);
    return 0;
}

static weft_ckpt *open_ckpt(weft_group *g, const char *dir, int64_t keep) {
    const weft_ckpt_opts o = {.size = sizeof o, .keep = keep, .segment_bytes = 16384};
    weft_ckpt *c = NULL;
    assert_ok(weft_ckpt_open(g, dir, &o, &c));
    return c;
}

/* The first `size` ranks as a group; NULL on the others. */
static weft_group *first_ranks(int size) {
    MPI_Comm comm;
    weft_group *g = NULL;
    MPI_Comm_split(MPI_COMM_WORLD, mpi_test_rank() < size ? 0 : MPI_UNDEFINED, mpi_test_rank(), &comm);
    if (comm == MPI_COMM_NULL) return NULL;
    assert_ok(weft_group_create(context, comm, "some", &g));
    MPI_Comm_free(&comm);
    return g;
}

/* Every pair of (writers, readers), random layouts on both sides, several files. */
static void any_layout_loads_into_any_other(void **state) {
    (void)state;
    const int n = mpi_test_size();
    const uint64_t seed = mpi_test_seed();
    char *dir = case_directory();
    weft_group *of[9] = {NULL};
    for (int k = 1; k <= n; k++) of[k] = first_ranks(k);
    for (int w = 1; w <= n; w++)
        for (int r = 1; r <= n; r++) {
            case_parts p;
            const int64_t step = 100 * w + r;
            if (of[w]) {
                const weft_ckpt_opts o = {.size = sizeof o,
                                          .keep = 1,
                                          .segment_bytes = 4096 << (step % 4),
                                          .files = (int)(step % 3)};
                weft_ckpt *c;
                assert_ok(weft_ckpt_open(of[w], dir, &o, &c));
                case_make(seed + (uint64_t)step, mpi_test_rank(), w, &p);
                case_fill(&p, step);
                if (step % 2) {
                    assert_ok(weft_ckpt_save(c, step, p.part, p.n, "{\"x\":1}"));
                } else {
                    assert_ok(weft_ckpt_begin(c, step, p.part, p.n, "{\"x\":1}"));
                    assert_ok(weft_ckpt_staged(c, -1));
                    case_scribble(&p);
                    assert_ok(weft_ckpt_wait(c, NULL));
                }
                case_free(&p);
                assert_ok(weft_ckpt_close(c));
            }
            MPI_Barrier(MPI_COMM_WORLD);
            if (of[r]) {
                weft_ckpt *c = open_ckpt(of[r], dir, 1);
                weft_ckpt_load_opts o = {.size = sizeof o};
                int64_t got = -1;
                char *text = NULL;
                case_make(seed * 3 + (uint64_t)step, mpi_test_rank(), r, &p);
                case_scribble(&p);
                /* a rank without a part of some tensor does not ask for it */
                o.partial = 1;
                assert_ok(weft_ckpt_load(c, &got, p.part, p.n, &o, &text));
                assert_int_equal(got, step);
                assert_string_equal(text, "{\"x\":1}");
                case_check(&p, step);
                free(text);
                case_free(&p);
                assert_ok(weft_ckpt_close(c));
            }
            MPI_Barrier(MPI_COMM_WORLD);
        }
    case_remove(dir);
}

static void a_save_goes_on_while_the_program_does(void **state) {
    (void)state;
    char *dir = case_directory();
    weft_ckpt *c = open_ckpt(world, dir, 3);
    weft_ckpt_info info;
    case_parts p, q;
    case_make(mpi_test_seed(), mpi_test_rank(), mpi_test_size(), &p);
    case_fill(&p, 1);
    assert_ok(weft_ckpt_plan(c, p.part, p.n));
    assert_ok(weft_ckpt_begin(c, 10, p.part, p.n, NULL));
    assert_int_equal(weft_ckpt_begin(c, 11, p.part, p.n, NULL), WEFT_DROPPED);
    for (size_t i = 0; i < p.n; i++) assert_ok(weft_ckpt_staged(c, (int)i));
    case_fill(&p, 2); /* the next update */
    weft_status s;
    int steps = 0;
    while ((s = weft_ckpt_progress(c, &info)) == WEFT_IN_PROGRESS) {
        assert_int_equal(info.busy, 1);
        usleep(200);
        assert_true(++steps < 100000);
    }
    assert_ok(s);
    assert_int_equal(info.step, 10);
    assert_int_equal(info.saved, 1);
    assert_int_equal(info.skipped, 1);
    assert_int_equal(info.busy, 0);
    assert_true(info.exposed > 0 && info.exposed <= info.seconds);
    int64_t step = -1;
    case_make_as(CASE_REPLICATED, mpi_test_rank(), mpi_test_size(), &q);
    assert_ok(weft_ckpt_load(c, &step, q.part, q.n, NULL, NULL));
    case_check(&q, 1);
    case_free(&p);
    case_free(&q);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

static void all_mismatches_are_told_at_once(void **state) {
    (void)state;
    char *dir = case_directory();
    weft_ckpt *c = open_ckpt(world, dir, 1);
    case_parts p;
    float x[6] = {0};
    int64_t step = -1;
    case_make_as(CASE_ROOT, mpi_test_rank(), mpi_test_size(), &p);
    assert_ok(weft_ckpt_save(c, 1, p.part, p.n, NULL));
    const weft_ckpt_part wrong[] = {
        {.name = "model/new", .dtype = WEFT_F32, .ndim = 1, .shape = {6}, .ptr = x},
        {.name = "model/layers.00.norm1.weight", .dtype = WEFT_F32, .ndim = 1, .shape = {6}, .ptr = x},
        {.name = "sim/tiny", .dtype = WEFT_F32, .ndim = 1, .shape = {3}, .ptr = x},
    };
    weft_status s = weft_ckpt_load(c, &step, wrong, 3, NULL, NULL);
    assert_error(s, WEFT_ERR_SHAPE, "model/new is missing");
    assert_non_null(strstr(weft_last_error(), "model/layers.00.norm1.weight is 80 there, 6 here"));
    assert_non_null(strstr(weft_last_error(), "sim/tiny is i64 there, f32 here"));
    assert_non_null(strstr(weft_last_error(), "model/embed.tok.weight is not expected"));
    /* parts of a save */
    weft_ckpt_part hole[] = {
        {.name = "a", .dtype = WEFT_F32, .ndim = 1, .shape = {6}, .flat_lo = 1, .flat_hi = 6, .ptr = x},
        {.name = "b", .dtype = WEFT_F32, .ndim = 1, .shape = {6}, .ptr = x}};
    assert_error(weft_ckpt_save(c, 2, hole, 2, NULL), WEFT_ERR_SHAPE, "overlap or leave gaps: a");
    hole[0].name = "a/../b";
    hole[0].flat_lo = hole[0].flat_hi = 0;
    hole[0].name = "/a";
    assert_error(weft_ckpt_save(c, 2, hole, 2, NULL), WEFT_ERR_ARG, "no name");
    hole[0].name = "b";
    assert_error(weft_ckpt_save(c, 2, hole, 2, NULL), WEFT_ERR_ARG, "twice");
    assert_error(weft_ckpt_save(c, 2, hole, 1, "[1]"), WEFT_ERR_FORMAT, "JSON object");
    case_free(&p);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

static void f32_and_bf16_convert(void **state) {
    (void)state;
    char *dir = case_directory();
    weft_ckpt *c = open_ckpt(world, dir, 1);
    enum { N = 5000 };
    float *x = calloc(N, sizeof *x), *y = calloc(N, sizeof *y);
    uint16_t *h = calloc(N, sizeof *h);
    for (int i = 0; i < N; i++) x[i] = (float)(i % 256) * 0.5f; /* exact in bf16 */
    weft_ckpt_part p = {.name = "w", .dtype = WEFT_F32, .ndim = 1, .shape = {N}, .ptr = x};
    int64_t step = -1;
    assert_ok(weft_ckpt_save(c, 1, &p, 1, NULL));
    p.dtype = WEFT_BF16;
    p.ptr = h;
    assert_ok(weft_ckpt_load(c, &step, &p, 1, NULL, NULL));
    for (int i = 0; i < N; i++) {
        uint32_t u;
        memcpy(&u, &x[i], 4);
        assert_int_equal(h[i], u >> 16);
    }
    assert_ok(weft_ckpt_save(c, 2, &p, 1, NULL));
    p.dtype = WEFT_F32;
    p.ptr = y;
    step = 2;
    assert_ok(weft_ckpt_load(c, &step, &p, 1, NULL, NULL));
    assert_memory_equal(x, y, N * sizeof *x);
    free(x);
    free(y);
    free(h);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

static int entries(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.' && strcmp(e->d_name, "latest") != 0;
    if (d) closedir(d);
    return n;
}

/* The n-th call of a kind fails on one rank: the save fails on all, nothing is left, the earlier one loads. */
static void a_failed_save_costs_nothing(void **state) {
    (void)state;
    char *dir = case_directory();
    weft_ckpt *c = open_ckpt(world, dir, 0);
    case_parts p;
    int64_t step;
    int failures = 0;
    case_make(5, mpi_test_rank(), mpi_test_size(), &p);
    case_fill(&p, 1);
    assert_ok(weft_ckpt_save(c, 1, p.part, p.n, NULL));
    static const weft_fault_site sites[] = {WEFT_FAULT_WRITE, WEFT_FAULT_SYNC, WEFT_FAULT_RENAME,
                                            WEFT_FAULT_ALLOC};
    for (size_t k = 0; k < 4; k++)
        for (int nth = 1; nth < 40; nth += 1 + nth / 6) {
            const int victim = (nth + (int)k) % mpi_test_size();
            case_fill(&p, 2);
            if (mpi_test_rank() == victim) weft_fault_arm(sites[k], nth);
            weft_status s =
                nth % 2 ? weft_ckpt_begin(c, 2, p.part, p.n, NULL) : weft_ckpt_save(c, 2, p.part, p.n, NULL);
            if (s == WEFT_OK && nth % 2) s = weft_ckpt_wait(c, NULL);
            weft_fault_arm(sites[k], 0);
            int64_t worst = s < 0;
            assert_ok(weft_ctrl_allreduce(world, &worst, 1, WEFT_I64, WEFT_MAX));
            assert_int_equal(worst, s < 0); /* all ranks say the same */
            failures += s < 0;
            step = -1;
            case_scribble(&p);
            weft_ckpt_load_opts o = {.size = sizeof o, .partial = 1};
            assert_ok(weft_ckpt_load(c, &step, p.part, p.n, &o, NULL));
            /* a save may fail when all is done but the last sync: then it is there, and whole */
            case_check(&p, step);
            if (s >= 0) assert_int_equal(step, 2);
            assert_ok(weft_ctrl_barrier(world));
            if (!mpi_test_rank()) assert_int_equal(entries(dir), (int)step);
            if (!mpi_test_rank() && step == 2) assert_ok(ckpt_remove(dir, "step_0000000002"));
            assert_ok(weft_ctrl_barrier(world));
        }
    assert_true(failures > 15);
    case_free(&p);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

/* The same step again, as after a resume from an older one: whatever fails, there is one of that step that loads. */
static void a_replaced_checkpoint_is_never_lost(void **state) {
    (void)state;
    char *dir = case_directory();
    weft_ckpt *c = open_ckpt(world, dir, 1);
    case_parts p;
    int64_t step;
    int failures = 0;
    case_make(11, mpi_test_rank(), mpi_test_size(), &p);
    case_fill(&p, 1);
    assert_ok(weft_ckpt_save(c, 1, p.part, p.n, NULL));
    static const weft_fault_site sites[] = {WEFT_FAULT_RENAME, WEFT_FAULT_SYNC};
    for (size_t k = 0; k < 2; k++)
        for (int nth = 1; nth < 14; nth++) {
            const int v = nth + 1;
            case_fill(&p, v);
            if (!mpi_test_rank()) weft_fault_arm(sites[k], nth);
            const weft_status s = weft_ckpt_save(c, 1, p.part, p.n, NULL);
            weft_fault_arm(sites[k], 0);
            failures += s < 0;
            weft_ckpt_load_opts o = {.size = sizeof o, .partial = 1};
            step = -1;
            assert_ok(weft_ckpt_load(c, &step, p.part, p.n, &o, NULL));
            assert_int_equal(step, 1);
            if (s >= 0) case_check(&p, v);
            assert_ok(weft_ctrl_barrier(world));
            if (!mpi_test_rank()) assert_int_equal(entries(dir), 1);
            assert_ok(weft_ctrl_barrier(world));
        }
    assert_true(failures > 5);
    case_free(&p);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

static void flip(const char *path, int64_t at) {
    unsigned char b;
    const int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, at), 1);
    b ^= 0x10;
    assert_int_equal(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

/* A byte of tensor `name` of the checkpoint ROOT/entry. */
static void flip_tensor(const char *root, const char *entry, const char *name) {
    char path[4300];
    ckpt_reader *r;
    const weft_container *file;
    const weft_container_dataset *d;
    snprintf(path, sizeof path, "%s/%s", root, entry);
    assert_ok(ckpt_reader_open(path, &r));
    assert_ok(ckpt_reader_set(r, ckpt_table_find(&ckpt_reader_manifest(r)->table, name)->first, &file, &d));
    const int64_t at = d->at + 777;
    ckpt_reader_close(r);
    snprintf(path, sizeof path, "%s/%s/s000.h5", root, entry);
    flip(path, at);
}

static void damage_is_found_and_passed_over(void **state) {
    (void)state;
    char *dir = case_directory(), path[4200];
    weft_ckpt *c = open_ckpt(world, dir, 0);
    case_parts p;
    int64_t step = -1;
    case_make_as(CASE_ROWS, mpi_test_rank(), mpi_test_size(), &p);
    for (int v = 1; v <= 3; v++) {
        case_fill(&p, v);
        assert_ok(weft_ckpt_save(c, v, p.part, p.n, NULL));
    }
    if (!mpi_test_rank()) { /* a byte of a tensor of 3; the manifest of 2 */
        flip_tensor(dir, "step_0000000003", "model/embed.tok.weight");
        snprintf(path, sizeof path, "%s/step_0000000002/manifest.json", dir);
        flip(path, 200);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    case_scribble(&p);
    weft_ckpt_load_opts o = {.size = sizeof o, .partial = 1};
    assert_ok(weft_ckpt_load(c, &step, p.part, p.n, &o, NULL));
    assert_int_equal(step, 1);
    case_check(&p, 1);
    step = 3;
    weft_status s = weft_ckpt_load(c, &step, p.part, p.n, &o, NULL);
    assert_error(s, WEFT_ERR_CORRUPT, "model/embed.tok.weight");
    case_free(&p);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

static void retention_keeps_what_can_be_read(void **state) {
    (void)state;
    char *dir = case_directory(), path[4200];
    weft_ckpt_opts o = {.size = sizeof o, .keep = 2, .keep_every = 10};
    weft_ckpt *c;
    case_parts p;
    assert_ok(weft_ckpt_open(world, dir, &o, &c));
    case_make_as(CASE_REPLICATED, mpi_test_rank(), mpi_test_size(), &p);
    for (int v = 9; v <= 13; v++) assert_ok(weft_ckpt_save(c, v, p.part, p.n, NULL));
    if (!mpi_test_rank()) {
        ckpt_entry *list;
        size_t n;
        assert_ok(ckpt_list(dir, &list, &n));
        assert_int_equal(n, 3);
        assert_int_equal(list[0].step, 13);
        assert_int_equal(list[1].step, 12);
        assert_int_equal(list[2].step, 10);
        free(list);
        for (int v = 12; v <= 13; v++) { /* the two newest lose their files: the third is what is left */
            snprintf(path, sizeof path, "%s/step_%010d/s000.h5", dir, v);
            assert_int_equal(unlink(path), 0);
        }
        assert_ok(ckpt_prune(dir, 1, 0, CKPT_ALL_STEPS, 0, NULL, NULL));
        assert_ok(ckpt_list(dir, &list, &n));
        assert_int_equal(n, 3);
        assert_int_equal(list[2].step, 10);
        free(list);
    }
    case_free(&p);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

/* A run that went back behind a damaged checkpoint saves: what is damaged does not push out what it has saved. */
static void retention_is_not_misled_by_damage(void **state) {
    (void)state;
    char *dir = case_directory();
    weft_ckpt *c = open_ckpt(world, dir, 1);
    case_parts p;
    int64_t step = -1;
    case_make_as(CASE_ROWS, mpi_test_rank(), mpi_test_size(), &p);
    assert_ok(weft_ckpt_save(c, 5, p.part, p.n, NULL));
    if (!mpi_test_rank()) flip_tensor(dir, "step_0000000005", "model/embed.tok.weight");
    MPI_Barrier(MPI_COMM_WORLD);
    case_fill(&p, 3);
    assert_ok(weft_ckpt_save(c, 3, p.part, p.n, NULL));
    weft_ckpt_load_opts o = {.size = sizeof o, .partial = 1};
    assert_ok(weft_ckpt_load(c, &step, p.part, p.n, &o, NULL));
    assert_int_equal(step, 3);
    case_check(&p, 3);
    MPI_Barrier(MPI_COMM_WORLD);
    if (!mpi_test_rank()) assert_ok(ckpt_prune(dir, 1, 0, CKPT_ALL_STEPS, 0, NULL, NULL));
    MPI_Barrier(MPI_COMM_WORLD);
    step = -1;
    assert_ok(weft_ckpt_load(c, &step, p.part, p.n, &o, NULL));
    assert_int_equal(step, 3);
    case_free(&p);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

/* What stands in the directory and is not an unfinished save of ours stays: other directories, and a manifest that was
 * committed and cannot be read now. */
static void saving_removes_only_unfinished_saves(void **state) {
    (void)state;
    static const char *const stays[] = {"notes.tmp-old", "step_0000000007.tmp-00000001"};
    char *dir = case_directory(), path[4300];
    for (int i = 0; i < 3 && !mpi_test_rank(); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, i < 2 ? stays[i] : "step_0000000008.tmp-00000002");
        assert_ok(weft_mkdirs(path));
        if (i == 1) assert_ok(ckpt_manifest_write(path, "damaged", 7));
    }
    weft_ckpt *c = open_ckpt(world, dir, 1);
    float x[4] = {0};
    const weft_ckpt_part part = {.name = "x", .dtype = WEFT_F32, .ndim = 1, .shape = {4}, .ptr = x};
    if (!mpi_test_rank()) assert_int_equal(entries(dir), 3); /* who only loads takes nothing away */
    assert_ok(weft_ckpt_save(c, 9, &part, 1, NULL));
    assert_ok(weft_ckpt_close(c));
    if (!mpi_test_rank()) {
        for (int i = 0; i < 2; i++) {
            snprintf(path, sizeof path, "%s/%s", dir, stays[i]);
            assert_int_equal(access(path, F_OK), 0);
        }
        assert_int_equal(entries(dir), 3);
    }
    case_remove(dir);
}

/* "/a/0" cannot be a piece of one tensor and the group of another's. */
static void names_that_clash_in_the_file_are_refused(void **state) {
    (void)state;
    char *dir = case_directory();
    weft_ckpt *c = open_ckpt(world, dir, 1);
    float x[6] = {0};
    weft_ckpt_part p[] = {{.name = "a", .dtype = WEFT_F32, .ndim = 1, .shape = {6}, .ptr = x},
                          {.name = "a/0", .dtype = WEFT_F32, .ndim = 1, .shape = {6}, .ptr = x}};
    assert_error(weft_ckpt_begin(c, 1, p, 2, NULL), WEFT_ERR_ARG, "a/0");
    p[1].name = "a/0/b";
    assert_error(weft_ckpt_begin(c, 1, p, 2, NULL), WEFT_ERR_ARG, "a/0/b");
    static const char *const odd[] = {".", "a/.", "a/./b", "..", "a/../b", "../a"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        p[1].name = odd[i];
        assert_error(weft_ckpt_begin(c, 1, p, 2, NULL), WEFT_ERR_ARG, "no name");
    }
    p[1].name = "a/x0";
    assert_ok(weft_ckpt_save(c, 1, p, 2, NULL));
    p[1].name = "a.0/..0";
    assert_ok(weft_ckpt_save(c, 2, p, 2, NULL));
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

/* A manifest, sealed anew, that gives a tensor another shape of the same size. */
static void manifest_and_file_mean_the_same_array(void **state) {
    (void)state;
    char *dir = case_directory(), path[4300], *text = NULL;
    weft_ckpt *c = open_ckpt(world, dir, 1);
    float x[6] = {0};
    size_t n = 0;
    int64_t step = -1;
    weft_ckpt_part p = {.name = "w", .dtype = WEFT_F32, .ndim = 2, .shape = {2, 3}, .ptr = x};
    assert_ok(weft_ckpt_save(c, 1, &p, 1, NULL));
    if (!mpi_test_rank()) {
        snprintf(path, sizeof path, "%s/step_0000000001/manifest.json", dir);
        assert_ok(weft_file_read(path, 1 << 20, &text, &n));
        int found = 0;
        for (char *q = text; (q = strstr(q, "[2,3]")); q++, found++) memcpy(q, "[3,2]", 5);
        assert_int_equal(found, 2);
        snprintf(path, sizeof path, "%s/step_0000000001", dir);
        assert_ok(ckpt_manifest_write(path, text, n));
        free(text);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    p.shape[0] = 3;
    p.shape[1] = 2;
    assert_error(weft_ckpt_load(c, &step, &p, 1, NULL, NULL), WEFT_ERR_CORRUPT, "/w/0");
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

static weft_status add_one(void *arg, int64_t a, int64_t b, int64_t n) {
    (void)a, (void)b;
    *(int64_t *)arg += n;
    return WEFT_OK;
}

/* Box against range by arithmetic: as many as there are runs, and no time however large the tensor is said to be. */
static void shared_elements_are_computed(void **state) {
    (void)state;
    const int64_t shape[3] = {5, 4, 6}, huge[2] = {(int64_t)1 << 56, 2};
    uint64_t seed = mpi_test_seed();
    for (int i = 0; i < 3000; i++) {
        ckpt_piece box = {.box = {.ndim = 3}}, range = {0};
        for (int d = 0; d < 3; d++) {
            box.box.off[d] =
                (int64_t)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33) % shape[d];
            box.box.ext[d] =
                1 + (int64_t)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33) %
                        (shape[d] - box.box.off[d]);
        }
        range.flat_lo = (int64_t)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33) % 120;
        range.flat_hi = range.flat_lo + 1 +
                        (int64_t)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33) %
                            (120 - range.flat_lo);
        int64_t want = 0;
        assert_ok(ckpt_runs(3, shape, &box, &range, add_one, &want));
        assert_int_equal(ckpt_shared(3, shape, &box, &range), want);
        assert_int_equal(ckpt_shared(3, shape, &range, &box), want);
    }
    const ckpt_piece column = {.box = {.ndim = 2, .off = {0, 1}, .ext = {(int64_t)1 << 56, 1}}},
                     rest = {.flat_lo = 2, .flat_hi = (int64_t)1 << 57};
    assert_int_equal(ckpt_shared(2, huge, &column, &rest), ((int64_t)1 << 56) - 1);
}

/* Whole parts are fetched once; parts of segments at most one segment more at each end. */
static void a_load_fetches_what_it_needs(void **state) {
    (void)state;
    char *dir = case_directory();
    weft_ckpt *c = open_ckpt(world, dir, 1);
    const int64_t rows = 4096, cols = 256;
    float *x = calloc((size_t)(rows * cols), sizeof *x);
    weft_ckpt_part p = {.name = "w", .dtype = WEFT_F32, .ndim = 2, .shape = {rows, cols}, .ptr = x};
    assert_ok(weft_ckpt_save(c, 1, &p, 1, NULL));
    const int64_t lo = rows * mpi_test_rank() / mpi_test_size(),
                  hi = rows * (mpi_test_rank() + 1) / mpi_test_size();
    p.box = (weft_box){.ndim = 2, .off = {lo, 0}, .ext = {hi - lo, cols}};
    weft_ckpt_load_opts o = {.size = sizeof o};
    int64_t step = -1;
    assert_ok(weft_ckpt_load(c, &step, &p, 1, &o, NULL));
    assert_int_equal(o.needed, (hi - lo) * cols * 4);
    assert_true(o.fetched >= o.needed && (double)o.fetched <= 1.05 * (double)o.needed + 2 * 16384);
    free(x);
    assert_ok(weft_ckpt_close(c));
    case_remove(dir);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(any_layout_loads_into_any_other, begin, end),
        cmocka_unit_test_setup_teardown(a_save_goes_on_while_the_program_does, begin, end),
        cmocka_unit_test_setup_teardown(all_mismatches_are_told_at_once, begin, end),
        cmocka_unit_test_setup_teardown(f32_and_bf16_convert, begin, end),
        cmocka_unit_test_setup_teardown(a_failed_save_costs_nothing, begin, end),
        cmocka_unit_test_setup_teardown(damage_is_found_and_passed_over, begin, end),
        cmocka_unit_test_setup_teardown(retention_keeps_what_can_be_read, begin, end),
        cmocka_unit_test_setup_teardown(a_replaced_checkpoint_is_never_lost, begin, end),
        cmocka_unit_test_setup_teardown(retention_is_not_misled_by_damage, begin, end),
        cmocka_unit_test_setup_teardown(saving_removes_only_unfinished_saves, begin, end),
        cmocka_unit_test_setup_teardown(names_that_clash_in_the_file_are_refused, begin, end),
        cmocka_unit_test_setup_teardown(manifest_and_file_mean_the_same_array, begin, end),
        cmocka_unit_test_setup_teardown(shared_elements_are_computed, begin, end),
        cmocka_unit_test_setup_teardown(a_load_fetches_what_it_needs, begin, end),
    };
    return mpi_test_main(&argc, &argv, "checkpoint", tests, sizeof tests / sizeof *tests);
}
