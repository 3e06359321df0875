/* The tuning table: what is read and what is refused; that all ranks use rank 0's; that no table changes a bit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/status.h"
#include "comm/shm/tune.h"
#include "tests/comm/reference.h"
#include "tests/support/mpi_test.h"

#define NOISE 100000
#define MOST  600000 /* elements */

static const shm_tune sample = {5000, 262144, (size_t)32 << 20, TUNE_NEVER, 3};

static int equal(const shm_tune *a, const shm_tune *b) {
    return a->together == b->together && a->slot == b->slot && a->stream_push == b->stream_push &&
           a->stream_copy == b->stream_copy && a->ranks == b->ranks;
}

static void a_table_reads_back(void **state) {
    (void)state;
    char text[TUNE_TEXT];
    shm_tune t = SHM_TUNE_DEFAULT;
    tune_print(&sample, text);
    assert_ok(tune_parse(text, strlen(text), &t));
    assert_true(equal(&t, &sample));
}

static void a_cut_table_is_none(void **state) {
    (void)state;
    char text[TUNE_TEXT];
    tune_print(&sample, text);
    for (size_t n = 0; n < strlen(text); n++) {
        shm_tune t = SHM_TUNE_DEFAULT;
        assert_error(tune_parse(text, n, &t), WEFT_ERR_FORMAT, NULL);
        assert_true(equal(&t, &SHM_TUNE_DEFAULT));
    }
}

static void refuse(weft_status want, const char *words, const char *text) {
    shm_tune t = sample;
    assert_error(tune_parse(text, strlen(text), &t), want, words);
    assert_true(equal(&t, &sample));
}

#define TABLE(together, slot, push)                                                                          \
    "weft-tune 1\nranks 2\ntogether " together "\nslot " slot "\nstream_push " push                          \
    "\nstream_copy never\nend\n"

static void what_is_wrong_is_named(void **state) {
    (void)state;
    shm_tune t;
    assert_ok(tune_parse(TABLE("4096", "65536", "never"), strlen(TABLE("4096", "65536", "never")), &t));
    refuse(WEFT_ERR_VERSION, "version 2", "weft-tune 2\nwhatever that is\n");
    refuse(WEFT_ERR_FORMAT, "first line", "weft-tune 0\nend\n");
    refuse(WEFT_ERR_FORMAT, "first line", "weft-tune one\nend\n");
    refuse(WEFT_ERR_CONFIG, "line 3: together is 65537", TABLE("65537", "65536", "never"));
    refuse(WEFT_ERR_CONFIG, "slot is 16383", TABLE("4096", "16383", "never"));
    refuse(WEFT_ERR_CONFIG, "slot is 4194305", TABLE("4096", "4194305", "never"));
    refuse(WEFT_ERR_CONFIG, "stream_push is 0", TABLE("4096", "65536", "0"));
    refuse(WEFT_ERR_FORMAT, "no number", TABLE("-1", "65536", "never"));
    refuse(WEFT_ERR_FORMAT, "no number", TABLE("99999999999999999999999", "65536", "never"));
    refuse(WEFT_ERR_FORMAT, "no number", TABLE("never", "65536", "never"));
    refuse(WEFT_ERR_FORMAT, "line 4: 'together'", TABLE("1\ntogether 1", "65536", "never"));
    refuse(WEFT_ERR_FORMAT, "no key", "weft-tune 1\nsteps 2\nend\n");
    refuse(WEFT_ERR_FORMAT, "no line 'slot'", "weft-tune 1\nranks 2\ntogether 1\nend\n");
}

/* Bytes of a table changed at random, and nothing but noise: a table within its bounds, or an error. */
static void noise_is_survived(void **state) {
    (void)state;
    const uint64_t seed = mpi_test_seed();
    char good[TUNE_TEXT], *text;
    tune_print(&sample, good);
    const size_t whole = strlen(good);
    size_t read = 0;
    for (uint64_t i = 0; i < NOISE; i++) {
        const uint64_t r = weft_rng_u64(seed, 1, i);
        const size_t n = r % 4 ? whole : r >> 8 & 63;
        shm_tune t;
        text = malloc(n + 1); /* exactly as long: a sanitizer sees what is read behind it */
        assert_non_null(text);
        for (size_t k = 0; k < n; k++) text[k] = r % 4 ? good[k] : (char)weft_rng_u64(seed, 2 + i, k);
        if (r % 4) text[(r >> 16) % n] = (char)(r >> 8);
        if (tune_parse(text, n, &t) >= 0) {
            read++;
            assert_true(t.together <= 65536 && t.slot >= 16384 && t.slot <= (size_t)4 << 20);
            assert_true(t.stream_push >= (size_t)1 << 20 && t.stream_copy >= (size_t)1 << 20 && t.ranks > 0);
        }
        free(text);
    }
    assert_true(read > 0 && read < NOISE); /* changes in comments and digits leave a table */
}

/* --- contexts
 * ---------------------------------------------------------------------------------------------------- */

static char file[64];

static void write_table(const shm_tune *t) {
    char text[TUNE_TEXT];
    tune_print(t, text);
    snprintf(file, sizeof file, "/tmp/weft-tune-%d-%d", mpi_test_rank(), (int)getpid());
    assert_ok(weft_file_write(file, text, strlen(text)));
    setenv("WEFT_TUNE", file, 1);
}

static void forget_table(void) {
    unlink(file);
    unsetenv("WEFT_TUNE");
}

/* Each rank's environment names another table. */
static void all_ranks_use_that_of_rank_0(void **state) {
    (void)state;
    shm_tune mine = sample;
    mine.together += (size_t)mpi_test_rank();
    write_table(&mine);
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_true(equal(tune_of(c), &sample));
    mpi_test_finalize(c);
    if (mpi_test_rank() == 0) setenv("WEFT_TUNE", "off", 1);
    c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_true(equal(tune_of(c), &SHM_TUNE_DEFAULT));
    mpi_test_finalize(c);
    forget_table();
}

static void a_bad_table_is_a_warning(void **state) {
    (void)state;
    char log[80], *text = NULL;
    size_t n = 0;
    snprintf(log, sizeof log, "/tmp/weft-tune-log-%d-%d", mpi_test_rank(), (int)getpid());
    setenv("WEFT_TUNE", "/nowhere/tune", 1);
    assert_ok(weft_log_open(WEFT_LOG_WARN, mpi_test_rank(), log));
    weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
    assert_true(equal(tune_of(c), &SHM_TUNE_DEFAULT));
    mpi_test_finalize(c);
    weft_log_close();
    assert_ok(weft_file_read(log, 1 << 20, &text, &n));
    const char *first = strstr(text, "/nowhere/tune");
    assert_int_equal(first != NULL, mpi_test_rank() == 0);
    if (first) assert_null(strstr(first + 1, "no tuning table")); /* once */
    free(text);
    unlink(log);
    unsetenv("WEFT_TUNE");
}

/* The default place is looked at if it is there, and only then. */
static void the_default_place_is_read(void **state) {
    (void)state;
    char cache[64], path[TUNE_PATH], dir[80], text[TUNE_TEXT];
    shm_tune t;
    snprintf(cache, sizeof cache, "/tmp/weft-tune-cache-%d-%d", mpi_test_rank(), (int)getpid());
    const char *before = getenv("XDG_CACHE_HOME");
    char *keep = before ? strdup(before) : NULL;
    setenv("XDG_CACHE_HOME", cache, 1);
    unsetenv("WEFT_TUNE");
    assert_ok(tune_find(&t, path));
    assert_true(!*path && equal(&t, &SHM_TUNE_DEFAULT));
    assert_ok(tune_path(path));
    snprintf(dir, sizeof dir, "%s/weft", cache);
    assert_ok(weft_mkdirs(dir));
    tune_print(&sample, text);
    assert_ok(weft_file_write(path, text, strlen(text)));
    assert_ok(tune_find(&t, path));
    assert_true(strstr(path, cache) && equal(&t, &sample));
    assert_ok(weft_remove_tree(cache));
    keep ? setenv("XDG_CACHE_HOME", keep, 1) : unsetenv("XDG_CACHE_HOME");
    free(keep);
}

/* Sums of all the ways that a table can choose, against the serial reference. */
static void no_table_changes_a_bit(void **state) {
    (void)state;
    static const shm_tune table[] = {{0, 16384, (size_t)1 << 20, (size_t)1 << 20, 1},
                                     {65536, (size_t)4 << 20, TUNE_NEVER, TUNE_NEVER, 1},
                                     {4096, 65536, (size_t)1 << 20, TUNE_NEVER, 1}};
    static const size_t sizes[] = {1500, 8000, 50021, MOST};
    static unsigned char everybody[256];
    memset(everybody, 1, sizeof everybody);
    float *in = malloc(MOST * sizeof *in), *out = malloc(MOST * sizeof *out),
          *want = malloc(MOST * sizeof *want);
    assert_true(in && out && want);
    for (size_t k = 0; k < sizeof table / sizeof *table; k++) {
        weft_group *g;
        write_table(&table[k]);
        weft_ctx *c = mpi_test_context(MPI_TEST_PATIENCE_MS, 0);
        assert_true(equal(tune_of(c), &table[k]));
        assert_ok(weft_group_create(c, MPI_COMM_WORLD, "test", &g));
        float *both = weft_mem_alloc(g, MOST * sizeof *both);
        assert_non_null(both);
        assert_ok(weft_commit(c));
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const size_t n = sizes[i];
            reference_fill(i, mpi_test_rank(), WEFT_F32, n, in);
            reference_fill(i, mpi_test_rank(), WEFT_F32, n, both);
            reference_sum(i, mpi_test_size(), everybody, WEFT_F32, WEFT_SUM, n, want);
            assert_ok(weft_allreduce(g, in, out, n, WEFT_F32, WEFT_SUM));
            assert_memory_equal(out, want, n * sizeof *want);
            assert_ok(weft_allreduce(g, both, both, n, WEFT_F32, WEFT_SUM));
            assert_memory_equal(both, want, n * sizeof *want);
        }
        mpi_test_finalize(c);
        forget_table();
    }
    free(in);
    free(out);
    free(want);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_reads_back),           cmocka_unit_test(a_cut_table_is_none),
        cmocka_unit_test(what_is_wrong_is_named),       cmocka_unit_test(noise_is_survived),
        cmocka_unit_test(all_ranks_use_that_of_rank_0), cmocka_unit_test(a_bad_table_is_a_warning),
        cmocka_unit_test(the_default_place_is_read),    cmocka_unit_test(no_table_changes_a_bit),
    };
    return mpi_test_main(&argc, &argv, "comm_tune", tests, sizeof tests / sizeof *tests);
}
