/* Damage at random places of a checkpoint: flipped bits, files cut short, files swapped. All of it is found, and before a
 * byte is used; what verify names holds the damaged byte. Usage: test_damage TRIALS */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/checkpoint/verify.h"
#include "tests/io/checkpoint/ckpt_case.h"

static int trials = 200;

typedef struct found {
    int n, holds; /* places told; one of them is the damaged byte's, or of its whole file */
    const char *file;
    int64_t at;
} found;

static void note(void *arg, const ckpt_damage *d) {
    found *f = arg;
    f->n++;
    if (!strcmp(d->file, f->file) && (!d->hi || (f->at >= d->lo && f->at < d->hi))) f->holds = 1;
}

static char *read_all(const char *path, size_t *n) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    char *p = malloc((size_t)st.st_size);
    const int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, p, (size_t)st.st_size), st.st_size);
    close(fd);
    *n = (size_t)st.st_size;
    return p;
}

static void write_all(const char *path, const char *p, size_t n) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_int_equal(write(fd, p, n), n);
    close(fd);
}

/* Loading must fail, and leave what was given alone wherever it fails before reading. */
static void must_not_load(const char *dir, case_parts *p) {
    ckpt_reader *r = NULL;
    weft_ckpt_load_opts o = {.size = sizeof o};
    weft_status s = ckpt_reader_open(dir, &r);
    if (s >= 0) s = ckpt_reader_open_files(r);
    if (s >= 0) s = ckpt_reader_load(r, p->part, p->n, &o);
    if (s >= 0)
        case_check(p, 5); /* the damage was in a gap or in what HDF5 alone reads: then all values are right */
    ckpt_reader_close(r);
}

static void every_damage_is_found(void **state) {
    (void)state;
    static const char *const files[3] = {"s000.h5", "s001.h5", "manifest.json"};
    char *dir = case_directory(), root[4200], path[4400];
    weft_ctx *ctx = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    weft_group *g;
    weft_ckpt *c;
    case_parts p;
    size_t n[3];
    char *whole[3];
    srand48((long)mpi_test_seed());
    assert_ok(weft_group_create(ctx, MPI_COMM_WORLD, "all", &g));
    const weft_ckpt_opts o = {.size = sizeof o, .segment_bytes = 16384, .files = 2};
    assert_ok(weft_ckpt_open(g, dir, &o, &c));
    case_make_as(CASE_REPLICATED, 0, 1, &p);
    case_fill(&p, 5);
    assert_ok(weft_ckpt_save(c, 5, p.part, p.n, NULL));
    assert_ok(weft_ckpt_close(c));
    snprintf(root, sizeof root, "%s/step_0000000005", dir);
    const int nfiles = 3;
    for (int i = 0; i < nfiles; i++) {
        snprintf(path, sizeof path, "%s/%s", root, files[i]);
        whole[i] = read_all(path, &n[i]);
    }
    assert_ok(ckpt_verify(root, 1, NULL, NULL));
    for (int t = 0; t < trials; t++) {
        const int i = t % 20 == 19 ? 2 : t % 2, kind = t % 10 == 7 ? 1 : t % 10 == 8 && i < 2 ? 2 : 0;
        const int64_t at = (int64_t)(drand48() * (double)n[i]);
        found f = {.file = files[i], .at = at};
        char *copy = malloc(n[i]);
        memcpy(copy, whole[i], n[i]);
        copy[at] ^= (char)(1 << (t & 7));
        snprintf(path, sizeof path, "%s/%s", root, files[i]);
        if (kind == 0) write_all(path, copy, n[i]);
        if (kind == 1) write_all(path, whole[i], (size_t)at);
        if (kind == 2) write_all(path, whole[1 - i], n[1 - i]);
        const time_t since = time(NULL);
        const weft_status s = ckpt_verify(root, 1, note, &f);
        if (s >= 0) fail_msg("trial %d: %s, byte %lld, kind %d: not found", t, files[i], (long long)at, kind);
        if (!f.holds)
            fail_msg("trial %d: %s, byte %lld, kind %d: found elsewhere", t, files[i], (long long)at, kind);
        case_scribble(&p);
        must_not_load(root, &p);
        assert_true(time(NULL) - since <= (time_t)MPI_TEST_PROMPT_S);
        write_all(path, whole[i], n[i]);
        free(copy);
    }
    assert_ok(ckpt_verify(root, 1, NULL, NULL));
    for (int i = 0; i < nfiles; i++) free(whole[i]);
    case_free(&p);
    mpi_test_finalize(ctx);
    case_remove(dir);
}

int main(int argc, char **argv) {
    if (argc > 1) trials = atoi(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_damage_is_found)};
    return mpi_test_main(&argc, &argv, "damage", tests, 1);
}
