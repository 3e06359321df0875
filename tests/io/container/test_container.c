/* What a container promises: the bytes come back, HDF5 agrees, damage is found and named, nothing
 * half-written stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <hdf5.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/container/container.h"
#include "tests/io/container/scratch.h"

static uint64_t seed = 20250401;

static uint64_t draw(uint64_t stream, uint64_t i) {
    return weft_rng_u64(seed, stream, i);
}

/* A file of datasets whose bytes are a function of (dataset, position). */
#define SETS 7
static const weft_attr attrs[] = {
    {.name = "title", .type = WEFT_ATTR_STRING, .s = "Gen\xc3\xa8se \"1\"\n"},
    {.name = "empty", .type = WEFT_ATTR_STRING, .s = ""},
    {.name = "count", .type = WEFT_ATTR_I64, .i = INT64_MIN + 1},
    {.name = "entropy", .type = WEFT_ATTR_F64, .f = 0.1},
};
static const weft_container_opts opts = {.size = sizeof opts,
                                         .format = "test-file",
                                         .version = 3,
                                         .segment_bytes = 4096,
                                         .attrs = attrs,
                                         .nattrs = 4};

static void sample_sets(weft_container_dataset *d) {
    const weft_container_dataset sets[SETS] = {
        {.name = "/tokens", .dtype = WEFT_U16, .ndim = 1, .shape = {30011}},
        {.name = "/doc", .dtype = WEFT_I64, .ndim = 1, .shape = {3}},
        {.name = "/a/b/bf16", .dtype = WEFT_BF16, .ndim = 2, .shape = {5, 7}},
        {.name = "/a/b/f32", .dtype = WEFT_F32, .ndim = 3, .shape = {2, 3, 1024}},
        {.name = "/a/byte", .dtype = WEFT_U8, .ndim = 1, .shape = {1}},
        {.name = "/a/page", .dtype = WEFT_U8, .ndim = 1, .shape = {4096}},
        {.name = "/half", .dtype = WEFT_F16, .ndim = 1, .shape = {4097}},
    };
    memcpy(d, sets, sizeof sets);
}

static void fill(unsigned char *p, int64_t n, size_t set) {
    for (int64_t i = 0; i < n; i += 8) {
        uint64_t r = draw(100 + set, (uint64_t)i);
        memcpy(p + i, &r, n - i < 8 ? (size_t)(n - i) : 8);
    }
}

static weft_status write_sample(const char *path, weft_container_dataset *d) {
    weft_container_writer *w;
    sample_sets(d);
    WEFT_TRY(weft_container_create(path, &opts, d, SETS, &w));
    weft_status s = WEFT_OK;
    for (size_t i = 0; s == WEFT_OK && i < SETS; i++) {
        unsigned char *p = malloc((size_t)d[i].bytes + 8);
        assert_non_null(p);
        fill(p, d[i].bytes, i);
        /* in pieces of odd sizes, so that pieces and segments cross */
        for (int64_t at = 0; s == WEFT_OK && at < d[i].bytes;) {
            int64_t n = 1 + (int64_t)(draw(7, (uint64_t)at) % 6000);
            if (n > d[i].bytes - at) n = d[i].bytes - at;
            s = weft_container_append(w, i, p + at, (size_t)n);
            at += n;
        }
        free(p);
    }
    if (s < 0) {
        weft_container_abort(w);
        return s;
    }
    return weft_container_commit(w, NULL);
}

static void round_trip(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "x.h5");
    weft_container_dataset d[SETS];
    assert_int_equal(write_sample(path, d), WEFT_OK);
    assert_int_equal(scratch_files(&t), 1);
    weft_container *c;
    assert_int_equal(weft_container_open(path, "test-file", 3, &c), WEFT_OK);
    for (size_t i = 0; i < SETS; i++) {
        const weft_container_dataset *r = weft_container_find(c, d[i].name);
        assert_non_null(r);
        assert_int_equal(r->at, d[i].at);
        assert_int_equal(r->bytes, d[i].bytes);
        assert_int_equal(r->dtype, d[i].dtype);
        assert_int_equal(r->at % (int64_t)weft_dtype_size(r->dtype), 0);
        if (r->bytes >= 4096) assert_int_equal(r->at % 4096, 0);
        unsigned char *p = malloc((size_t)r->bytes + 8);
        fill(p, r->bytes, i);
        assert_int_equal(weft_container_check(c, r, 0, r->bytes), WEFT_OK);
        assert_memory_equal(weft_container_data(c, r), p, (size_t)r->bytes);
        free(p);
        assert_int_equal(weft_container_check(c, r, 0, r->bytes + 1), WEFT_ERR_ARG);
    }
    assert_null(weft_container_find(c, "/none"));
    assert_string_equal(weft_container_attr(c, "title", WEFT_ATTR_STRING)->s, attrs[0].s);
    assert_string_equal(weft_container_attr(c, "empty", WEFT_ATTR_STRING)->s, "");
    assert_int_equal(weft_container_attr(c, "count", WEFT_ATTR_I64)->i, INT64_MIN + 1);
    assert_true(weft_container_attr(c, "entropy", WEFT_ATTR_F64)->f == 0.1);
    assert_null(weft_container_attr(c, "count", WEFT_ATTR_F64));
    assert_int_equal(weft_container_verify(c), WEFT_OK);
    weft_container_close(c);
    assert_int_equal(weft_container_open(path, "other", 3, &c), WEFT_ERR_FORMAT);
    assert_int_equal(weft_container_open(path, "test-file", 2, &c), WEFT_ERR_VERSION);
    assert_int_equal(weft_container_open("/etc/hostname", "test-file", 3, &c), WEFT_ERR_FORMAT);
    assert_int_equal(weft_container_open(t.dir, "test-file", 3, &c), WEFT_ERR_FORMAT);
    scratch_close(&t);
}

/* HDF5 opens the file and reads the same bytes and values by its own metadata. */
static void hdf5_agrees(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "x.h5");
    weft_container_dataset d[SETS];
    assert_int_equal(write_sample(path, d), WEFT_OK);
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(f >= 0);
    for (size_t i = 0; i < SETS; i++) {
        hid_t set = H5Dopen2(f, d[i].name, H5P_DEFAULT);
        assert_true(set >= 0);
        assert_int_equal((int64_t)H5Dget_offset(set), d[i].at);
        hid_t type = H5Dget_type(set);
        unsigned char *p = malloc((size_t)d[i].bytes + 8), *q = malloc((size_t)d[i].bytes);
        fill(p, d[i].bytes, i);
        assert_true(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, q) >= 0);
        assert_memory_equal(p, q, (size_t)d[i].bytes);
        if (d[i].dtype == WEFT_BF16) { /* as numbers: HDF5 widens by the description of the type */
            float v[35];
            assert_true(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, v) >= 0);
            for (int k = 0; k < 35; k++) {
                uint16_t h;
                uint32_t u;
                float want;
                memcpy(&h, p + 2 * k, 2);
                u = (uint32_t)h << 16;
                memcpy(&want, &u, 4);
                if (want == want) assert_true(v[k] == want);
            }
        }
        free(p);
        free(q);
        H5Tclose(type);
        H5Dclose(set);
    }
    int64_t count = 0;
    hid_t a = H5Aopen(f, "count", H5P_DEFAULT);
    assert_true(H5Aread(a, H5T_NATIVE_INT64, &count) >= 0);
    assert_int_equal(count, INT64_MIN + 1);
    H5Aclose(a);
    H5Fclose(f);
    scratch_close(&t);
}

static void same_content_same_bytes(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    char *a, *b;
    size_t na, nb;
    weft_container_dataset d[SETS];
    assert_int_equal(write_sample(scratch_path(&t, "a.h5"), d), WEFT_OK);
    assert_int_equal(weft_file_read(t.path, 1 << 24, &a, &na), WEFT_OK);
    sleep(1); /* a time stamp would show */
    assert_int_equal(write_sample(scratch_path(&t, "b.h5"), d), WEFT_OK);
    assert_int_equal(weft_file_read(t.path, 1 << 24, &b, &nb), WEFT_OK);
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    free(a);
    free(b);
    scratch_close(&t);
}

static void thousands_of_datasets(void **state) {
    (void)state;
    enum { N = 3000 };
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "x.h5");
    weft_container_dataset *d = calloc(N, sizeof *d);
    char(*names)[40] = calloc(N, sizeof *names);
    for (size_t i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "/model/layers.%02zu.part.%zu/0", i % 50, i);
        d[i] = (weft_container_dataset){.name = names[i], .dtype = i % 3 ? WEFT_F32 : WEFT_BF16, .ndim = 1};
        d[i].shape[0] = 1 + (int64_t)(draw(9, i) % 3000);
    }
    weft_container_opts o = opts;
    weft_container_writer *w;
    unsigned char buf[12008];
    assert_int_equal(weft_container_create(path, &o, d, N, &w), WEFT_OK);
    for (size_t i = 0; i < N; i++) {
        fill(buf, d[i].bytes, i);
        assert_int_equal(weft_container_append(w, i, buf, (size_t)d[i].bytes), WEFT_OK);
    }
    assert_int_equal(weft_container_commit(w, NULL), WEFT_OK);
    weft_container *c;
    assert_int_equal(weft_container_open(path, "test-file", 3, &c), WEFT_OK);
    assert_int_equal(weft_container_verify(c), WEFT_OK);
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(f >= 0);
    for (size_t i = 0; i < N; i += 7) {
        hid_t set = H5Dopen2(f, names[i], H5P_DEFAULT);
        assert_true(set >= 0);
        const weft_container_dataset *r = weft_container_find(c, names[i]);
        assert_int_equal((int64_t)H5Dget_offset(set), r->at);
        fill(buf, r->bytes, i);
        assert_memory_equal(weft_container_data(c, r), buf, (size_t)r->bytes);
        H5Dclose(set);
    }
    H5Fclose(f);
    weft_container_close(c);
    free(names);
    free(d);
    scratch_close(&t);
}

/* --- damage
 * -------------------------------------------------------------------------------------------------------- */

static void put_file(const char *path, const char *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static weft_status open_and_verify(const char *path) {
    weft_container *c;
    WEFT_TRY(weft_container_open(path, "test-file", 3, &c));
    weft_status s = weft_container_verify(c);
    weft_container_close(c);
    return s;
}

static void every_flip_is_found(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    weft_container_dataset d[SETS];
    char *good;
    size_t n;
    assert_int_equal(write_sample(scratch_path(&t, "good.h5"), d), WEFT_OK);
    assert_int_equal(weft_file_read(t.path, 1 << 24, &good, &n), WEFT_OK);
    const char *path = scratch_path(&t, "bad.h5");
    for (uint64_t i = 0; i < 600; i++) {
        /* half anywhere, half in the header */
        size_t at = (size_t)(draw(20, i) % (i % 2 ? n : 2500)), bit = draw(21, i) % 8;
        good[at] = (char)(good[at] ^ (1 << bit));
        put_file(path, good, n);
        weft_status s = open_and_verify(path);
        if (s != WEFT_ERR_CORRUPT && s != WEFT_ERR_FORMAT && s != WEFT_ERR_VERSION)
            fail_msg("seed %" PRIu64 ": bit %zu of byte %zu flipped and not found (%s)", seed, bit, at,
                     weft_status_name(s));
        if (!strstr(weft_last_error(), path)) fail_msg("byte %zu: %s", at, weft_last_error());
        good[at] = (char)(good[at] ^ (1 << bit));
    }
    put_file(path, good, n); /* the control: undamaged, it opens */
    assert_int_equal(open_and_verify(path), WEFT_OK);
    free(good);
    scratch_close(&t);
}

static void truncated_or_longer_is_refused(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    weft_container_dataset d[SETS];
    char *good;
    size_t n;
    assert_int_equal(write_sample(scratch_path(&t, "good.h5"), d), WEFT_OK);
    assert_int_equal(weft_file_read(t.path, 1 << 24, &good, &n), WEFT_OK);
    const char *path = scratch_path(&t, "bad.h5");
    for (uint64_t i = 0; i < 60; i++) {
        put_file(path, good, i < 50 ? (size_t)(draw(22, i) % n) : (size_t)(i - 50) * 10);
        assert_int_equal(open_and_verify(path), WEFT_ERR_FORMAT);
        assert_non_null(strstr(weft_last_error(), path));
    }
    put_file(path, good, n - 1);
    assert_int_equal(open_and_verify(path), WEFT_ERR_FORMAT);
    assert_non_null(strstr(weft_last_error(), "truncated"));
    good = realloc(good, n + 1);
    good[n] = 0;
    put_file(path, good, n + 1);
    assert_int_equal(open_and_verify(path), WEFT_ERR_FORMAT);
    free(good);
    scratch_close(&t);
}

/* A forger who recomputes the digest reaches the catalogue parser: nothing outside the file may become
 * reachable. */
static void forged_catalogues_stay_inside(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    weft_container_dataset d[SETS];
    char *good, *bad;
    size_t n;
    assert_int_equal(write_sample(scratch_path(&t, "good.h5"), d), WEFT_OK);
    assert_int_equal(weft_file_read(t.path, 1 << 24, &good, &n), WEFT_OK);
    const char *path = scratch_path(&t, "bad.h5");
    uint64_t text_bytes;
    memcpy(&text_bytes, good + 24, 8);
    bad = malloc(n);
    int refused = 0, opened = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        memcpy(bad, good, n);
        for (uint64_t k = 0; k <= i % 3; k++) {
            static const char set[] = "0123456789-e.,:\"[]{}ftn";
            char *p = bad + 48 + draw(30 + k, i) % text_bytes;
            *p = set[draw(40 + k, i) % (sizeof set - 1)];
        }
        char *joined = malloc(32 + text_bytes);
        memcpy(joined, bad, 32);
        memcpy(joined + 32, bad + 48, text_bytes);
        XXH128_canonicalFromHash((XXH128_canonical_t *)(bad + 32), XXH3_128bits(joined, 32 + text_bytes));
        free(joined);
        put_file(path, bad, n);
        weft_container *c;
        if (weft_container_open(path, "test-file", 3, &c) < 0) {
            refused++;
            continue;
        }
        opened++; /* a changed attribute, or nothing changed: then every dataset is inside the file */
        (void)weft_container_verify(c);
        for (size_t k = 0; k < SETS; k++) {
            const weft_container_dataset *r = weft_container_find(c, d[k].name);
            if (r) assert_true(r->at > 0 && r->bytes > 0 && r->at + r->bytes <= (int64_t)n);
        }
        weft_container_close(c);
    }
    assert_true(refused > 1000 && opened > 0);
    free(bad);
    free(good);
    scratch_close(&t);
}

static void check_names_the_segment(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    weft_container_dataset d[SETS];
    const char *path = scratch_path(&t, "x.h5");
    assert_int_equal(write_sample(path, d), WEFT_OK);
    char *all;
    size_t n;
    assert_int_equal(weft_file_read(path, 1 << 24, &all, &n), WEFT_OK);
    all[d[0].at + 3 * 4096 + 5] ^= 1;
    put_file(path, all, n);
    free(all);
    weft_container *c;
    assert_int_equal(weft_container_open(path, "test-file", 3, &c), WEFT_OK); /* data is checked on use */
    const weft_container_dataset *r = weft_container_find(c, "/tokens");
    assert_int_equal(weft_container_check(c, r, 0, 3 * 4096), WEFT_OK);
    assert_int_equal(weft_container_check(c, r, 4 * 4096, r->bytes), WEFT_OK);
    assert_int_equal(weft_container_check(c, r, 4 * 4096 - 1, 4 * 4096), WEFT_ERR_CORRUPT);
    assert_non_null(strstr(weft_last_error(), "/tokens"));
    assert_non_null(strstr(weft_last_error(), "12288 and 16384"));
    weft_container_close(c);
    scratch_close(&t);
}

/* --- failures
 * ------------------------------------------------------------------------------------------------------ */

static void failures_leave_nothing(void **state) {
    (void)state;
    static const struct {
        weft_fault_site site;
        const char *name;
    } sites[] = {{WEFT_FAULT_WRITE, "write"},
                 {WEFT_FAULT_SYNC, "sync"},
                 {WEFT_FAULT_RENAME, "rename"},
                 {WEFT_FAULT_READ, "read"},
                 {WEFT_FAULT_ALLOC, "alloc"}};
    for (size_t k = 0; k < sizeof sites / sizeof *sites; k++) {
        int failed = 0;
        for (long n = 1;; n++) {
            scratch t;
            assert_int_equal(scratch_open(&t), 0);
            const char *path = scratch_path(&t, "x.h5");
            weft_container_dataset d[SETS];
            weft_fault_arm(sites[k].site, n);
            weft_status s = write_sample(path, d);
            weft_fault_arm(sites[k].site, 0);
            if (s == WEFT_OK) {
                assert_int_equal(open_and_verify(path), WEFT_OK);
                scratch_close(&t);
                break;
            }
            failed++;
            assert_true(*weft_last_error());
            /* after the rename only the directory's sync can fail: then the file is whole, and the message
             * says so */
            if (access(path, F_OK) == 0) {
                assert_non_null(strstr(weft_last_error(), "is complete"));
                assert_int_equal(scratch_files(&t), 1);
                assert_int_equal(open_and_verify(path), WEFT_OK);
            } else
                assert_int_equal(scratch_files(&t), 0);
            scratch_close(&t);
        }
        print_message("    %s: %d places failed\n", sites[k].name, failed);
        assert_true(failed > 0);
    }
}

static void reading_failures_are_reported(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "x.h5");
    weft_container_dataset d[SETS];
    assert_int_equal(write_sample(path, d), WEFT_OK);
    for (int site = 0; site < 2; site++)
        for (long n = 1;; n++) {
            weft_fault_arm(site ? WEFT_FAULT_READ : WEFT_FAULT_ALLOC, n);
            weft_status s = open_and_verify(path);
            weft_fault_arm(site ? WEFT_FAULT_READ : WEFT_FAULT_ALLOC, 0);
            if (s == WEFT_OK) break;
            assert_int_equal(s, site ? WEFT_ERR_IO : WEFT_ERR_NOMEM);
        }
    scratch_close(&t);
}

static void incomplete_is_not_committed(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    weft_container_dataset d = {.name = "/x", .dtype = WEFT_U8, .ndim = 1, .shape = {10}};
    weft_container_writer *w;
    assert_int_equal(weft_container_create(scratch_path(&t, "x.h5"), &opts, &d, 1, &w), WEFT_OK);
    assert_int_equal(weft_container_append(w, 0, "0123456789a", 11), WEFT_ERR_ARG);
    assert_int_equal(weft_container_append(w, 1, "0", 1), WEFT_ERR_ARG);
    assert_int_equal(weft_container_append(w, 0, "012345678", 9), WEFT_OK);
    assert_int_equal(weft_container_commit(w, NULL), WEFT_ERR_STATE);
    assert_int_equal(scratch_files(&t), 0);
    scratch_close(&t);
}

static void bad_arguments_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"", "x", "/", "/x/", "/x//y", "/sys/xxh", NULL};
    weft_container_writer *w;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        weft_container_dataset d = {.name = names[i], .dtype = WEFT_U8, .ndim = 1, .shape = {10}};
        assert_int_equal(weft_container_create("/tmp/never.h5", &opts, &d, 1, &w), WEFT_ERR_ARG);
    }
    static const int64_t shapes[][2] = {{0, 1}, {-1, 1}, {INT64_MAX, 2}, {INT64_MAX / 2, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        weft_container_dataset d = {
            .name = "/x", .dtype = WEFT_U16, .ndim = 2, .shape = {shapes[i][0], shapes[i][1]}};
        assert_int_equal(weft_container_create("/tmp/never.h5", &opts, &d, 1, &w), WEFT_ERR_ARG);
    }
    weft_container_dataset two[2] = {{.name = "/x", .dtype = WEFT_U8, .ndim = 1, .shape = {10}},
                                     {.name = "/x", .dtype = WEFT_U8, .ndim = 1, .shape = {10}}};
    assert_int_equal(weft_container_create("/tmp/never.h5", &opts, two, 2, &w), WEFT_ERR_ARG);
    assert_non_null(strstr(weft_last_error(), "/x"));
}

static void no_directory_no_permission(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    weft_container_dataset d[SETS];
    assert_int_equal(write_sample(scratch_path(&t, "none/x.h5"), d), WEFT_ERR_ACCESS);
    assert_int_equal(chmod(t.dir, 0555), 0);
    int root = geteuid() == 0;
    if (root) assert_int_equal(seteuid(65534), 0);
    assert_int_equal(write_sample(scratch_path(&t, "x.h5"), d), WEFT_ERR_ACCESS);
    assert_non_null(strstr(weft_last_error(), "x.h5"));
    if (root) assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(t.dir, 0755), 0);
    assert_int_equal(scratch_files(&t), 0);
    scratch_close(&t);
}

static void full_disk(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    if (geteuid() != 0 || mount("tmpfs", t.dir, "tmpfs", 0, "size=160k") < 0) {
        scratch_close(&t);
        skip(); /* needs the right to mount; the injected ENOSPC above covers the paths */
    }
    weft_container_dataset d[SETS];
    weft_status s = write_sample(scratch_path(&t, "x.h5"), d);
    int left = scratch_files(&t);
    umount(t.dir);
    scratch_close(&t);
    assert_int_equal(s, WEFT_ERR_SPACE);
    assert_int_equal(left, 0);
}

/* --- threads
 * ---------------------------------------------------------------------------------------------------------
 */

static void *check_all(void *arg) {
    const weft_container *c = arg;
    const weft_container_dataset *r = weft_container_find(c, "/tokens");
    intptr_t bad = 0;
    for (int64_t lo = 0; lo < r->bytes; lo += 1000)
        bad |= weft_container_check(c, r, lo, lo + 1000 < r->bytes ? lo + 1000 : r->bytes) != WEFT_OK;
    return (void *)bad;
}

static void threads_check_together(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    weft_container_dataset d[SETS];
    weft_container *c;
    assert_int_equal(write_sample(scratch_path(&t, "x.h5"), d), WEFT_OK);
    assert_int_equal(weft_container_open(t.path, "test-file", 3, &c), WEFT_OK);
    pthread_t id[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&id[i], NULL, check_all, c), 0);
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(id[i], &bad);
        assert_null(bad);
    }
    weft_container_close(c);
    scratch_close(&t);
}

int main(int argc, char **argv) {
    if (argc > 1) seed = strtoull(argv[1], NULL, 10);
    print_message("seed %" PRIu64 "\n", seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(hdf5_agrees),
        cmocka_unit_test(same_content_same_bytes),
        cmocka_unit_test(thousands_of_datasets),
        cmocka_unit_test(every_flip_is_found),
        cmocka_unit_test(truncated_or_longer_is_refused),
        cmocka_unit_test(forged_catalogues_stay_inside),
        cmocka_unit_test(check_names_the_segment),
        cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(reading_failures_are_reported),
        cmocka_unit_test(incomplete_is_not_committed),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(no_directory_no_permission),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(threads_check_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
