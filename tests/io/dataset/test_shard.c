/* Token shards: what was appended comes back; wrong ids, damage and failures are refused with a reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <inttypes.h>
#include <math.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "base/fault.h"
#include "base/rng.h"
#include "io/container/container.h"
#include "io/dataset/shard.h"
#include "tests/io/container/scratch.h"

static uint64_t seed = 5;

static uint32_t id_of(uint64_t i, uint32_t vocab) {
    return (uint32_t)(weft_rng_u64(seed, 1, i) % vocab);
}

static weft_shard_info sample_info(uint32_t vocab) {
    weft_shard_info i = {.vocab = vocab, .eot = 0, .tokenizer = 0xfedcba9876543210u, .entropy = NAN};
    snprintf(i.source, sizeof i.source, "caf\xc3\xa9 \xff text"); /* one byte that is no UTF-8 */
    snprintf(i.licence, sizeof i.licence, "CC0-1.0");
    return i;
}

/* Documents of 0..9999 tokens until there are `tokens`. */
static weft_status write_shard(const char *path, uint32_t vocab, uint64_t tokens, weft_shard_info *out) {
    weft_shard_info info = sample_info(vocab);
    weft_shard_writer *w;
    WEFT_TRY(weft_shard_create(path, &info, &w));
    static uint32_t ids[10000];
    for (uint64_t at = 0, doc = 0; at < tokens; doc++) {
        size_t n = (size_t)(weft_rng_u64(seed, 2, doc) % 10000);
        if (n > tokens - at) n = (size_t)(tokens - at);
        for (size_t k = 0; k < n; k++) ids[k] = id_of(at + k, vocab);
        weft_status s = weft_shard_append(w, ids, NULL, n, 3 * n);
        if (s < 0) {
            weft_shard_abort(w);
            return s;
        }
        at += n;
    }
    return weft_shard_finish(w, out);
}

static void tokens_come_back(void **state) {
    (void)state;
    static const uint32_t vocabs[] = {1, 256, 65536, 65537, 200000};
    for (size_t v = 0; v < 5; v++) {
        scratch t;
        assert_int_equal(scratch_open(&t), 0);
        const char *path = scratch_path(&t, "a.wtok.h5");
        const uint64_t n = 300007;
        weft_shard_info info, read;
        assert_int_equal(write_shard(path, vocabs[v], n, &info), WEFT_OK);
        assert_int_equal(scratch_files(&t), 1);
        assert_int_equal(weft_shard_info_read(path, &read), WEFT_OK);
        assert_int_equal(read.tokens, n);
        assert_int_equal(read.docs, info.docs);
        assert_int_equal(read.source_bytes, 3 * n);
        assert_int_equal(read.vocab, vocabs[v]);
        assert_int_equal(read.eot, 0);
        assert_int_equal(read.width, vocabs[v] <= 65536 ? 2 : 4);
        assert_true(read.tokenizer == 0xfedcba9876543210u && isnan(read.entropy));
        assert_string_equal(read.source, "caf\xc3\xa9 ? text");
        assert_string_equal(read.licence, "CC0-1.0");
        weft_shard s;
        assert_int_equal(shard_open(path, &s), WEFT_OK);
        int32_t *tok = malloc(n * sizeof *tok);
        assert_int_equal(shard_copy(&s, 0, n, tok), WEFT_OK);
        for (uint64_t i = 0; i < n; i++)
            if ((uint32_t)tok[i] != id_of(i, vocabs[v])) fail_msg("token %" PRIu64 " differs", i);
        assert_int_equal(shard_copy(&s, n - 5, 6, tok), WEFT_ERR_ARG);
        free(tok);
        shard_close(&s);
        assert_int_equal(weft_shard_verify(path, &read), WEFT_OK);
        scratch_close(&t);
    }
}

/* A mask comes back token by token, in samples and in evaluation windows; a shard with one is version 2. */
static void masks_come_back(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "a.wtok.h5");
    weft_shard_info info = sample_info(100), read;
    weft_shard_writer *w;
    enum { N = 1000, T = 16 };
    uint32_t ids[N];
    uint8_t mask[N], got[T + 1];
    uint64_t ones = 7; /* the tokens without a mask */
    for (int i = 0; i < N; i++) {
        ids[i] = id_of((uint64_t)i, 100);
        mask[i] = (uint8_t)(weft_rng_u64(seed, 9, (uint64_t)i) & 1);
        ones += mask[i];
    }
    info.masked = 1;
    assert_int_equal(weft_shard_create(path, &info, &w), WEFT_OK);
    assert_int_equal(weft_shard_append(w, ids, mask, N, N), WEFT_OK);
    assert_int_equal(weft_shard_append(w, ids, NULL, 7, 7), WEFT_OK);
    assert_int_equal(weft_shard_finish(w, NULL), WEFT_OK);
    assert_int_equal(weft_shard_verify(path, &read), WEFT_OK);
    assert_int_equal(read.masked, 1);
    assert_int_equal(read.targets, ones);
    weft_container *c;
    assert_int_equal(weft_container_open(path, SHARD_FORMAT, 1, &c), WEFT_ERR_VERSION);
    weft_data *d;
    const weft_source_spec src = {"a", 1, &path, 1};
    assert_int_equal(weft_data_open(&src, 1, T, 1, 0, &d), WEFT_OK);
    assert_int_equal(weft_data_info(d)->targets, ones);
    for (uint64_t g = 0; g < weft_data_windows(d, 0); g++) {
        uint32_t s;
        uint64_t at;
        assert_int_equal(weft_data_locate(d, g, &s, &at), WEFT_OK);
        assert_int_equal(weft_data_get_mask(d, &g, 1, got), WEFT_OK);
        for (uint64_t i = 0; i <= T; i++) assert_int_equal(got[i], at * T + i < N ? mask[at * T + i] : 1);
    }
    uint64_t last = weft_data_eval_windows(d, 0) - 1, end = N + 7 - last * T;
    assert_true(end <= T); /* it is a short one */
    assert_int_equal(weft_data_eval_mask(d, 0, last, got), WEFT_OK);
    for (uint64_t i = 0; i <= T; i++)
        assert_int_equal(got[i], i >= end ? 0 : last * T + i < N ? mask[last * T + i] : 1);
    weft_data_close(d);
    scratch_close(&t);
}

static void wrong_masks_are_refused(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "a.wtok.h5");
    weft_shard_info info = sample_info(100);
    weft_shard_writer *w;
    assert_int_equal(weft_shard_create(path, &info, &w), WEFT_OK);
    assert_int_equal(weft_shard_append(w, (uint32_t[]){1}, (uint8_t[]){1}, 1, 1), WEFT_ERR_ARG);
    weft_shard_abort(w);
    info.masked = 1;
    assert_int_equal(weft_shard_create(path, &info, &w), WEFT_OK);
    assert_int_equal(weft_shard_append(w, (uint32_t[]){1}, (uint8_t[]){2}, 1, 1), WEFT_ERR_ARG);
    weft_shard_abort(w);
    assert_int_equal(scratch_files(&t), 0);
    scratch_close(&t);
}

static void wrong_ids_are_refused(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    weft_shard_info info = sample_info(100);
    weft_shard_writer *w;
    assert_int_equal(weft_shard_create(scratch_path(&t, "a.wtok.h5"), &info, &w), WEFT_OK);
    assert_int_equal(weft_shard_append(w, (uint32_t[]){1, 99}, NULL, 2, 1), WEFT_OK);
    assert_int_equal(weft_shard_append(w, (uint32_t[]){1, 100, 2}, NULL, 3, 1), WEFT_ERR_VOCAB);
    weft_shard_abort(w);
    assert_int_equal(scratch_files(&t), 0);
    assert_int_equal(weft_shard_create(t.path, &info, &w), WEFT_OK);
    assert_int_equal(weft_shard_finish(w, NULL), WEFT_ERR_FORMAT); /* nothing in it */
    assert_int_equal(scratch_files(&t), 0);
    info.eot = 100;
    assert_int_equal(weft_shard_create(t.path, &info, &w), WEFT_ERR_ARG);
    scratch_close(&t);
}

/* A container whose digests hold but whose content breaks the rules of a shard. */
static weft_status write_forged(const char *path, const char *format, int32_t version, int64_t vocab,
                                int64_t eot, const char *tokenizer, const int64_t doc[3], uint16_t third) {
    const weft_attr attrs[] = {{.name = "vocab", .type = WEFT_ATTR_I64, .i = vocab},
                               {.name = "eot", .type = WEFT_ATTR_I64, .i = eot},
                               {.name = "source_bytes", .type = WEFT_ATTR_I64, .i = 7},
                               {.name = "tokenizer", .type = WEFT_ATTR_STRING, .s = tokenizer}};
    weft_container_opts o = {.size = sizeof o,
                             .format = format,
                             .version = version,
                             .segment_bytes = 4096,
                             .attrs = attrs,
                             .nattrs = 4};
    weft_container_dataset d[] = {{.name = "/tokens", .dtype = WEFT_U16, .ndim = 1, .shape = {5}},
                                  {.name = "/doc", .dtype = WEFT_I64, .ndim = 1, .shape = {3}}};
    uint16_t tok[5] = {0, 1, third, 3, 4};
    weft_container_writer *w;
    WEFT_TRY(weft_container_create(path, &o, d, 2, &w));
    WEFT_TRY(weft_container_append(w, 0, tok, sizeof tok));
    WEFT_TRY(weft_container_append(w, 1, doc, 3 * sizeof *doc));
    return weft_container_commit(w, NULL);
}

static void forged_shards_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *format;
        int32_t version;
        int64_t vocab, eot;
        const char *tokenizer;
        int64_t doc[3];
        uint16_t third;
        weft_status opens, verifies;
    } cases[] = {
        {"weft-tokens", 1, 5, 0, "0123456789abcdef", {0, 2, 5}, 2, WEFT_OK, WEFT_OK}, /* the control */
        {"weft-other", 1, 5, 0, "0123456789abcdef", {0, 2, 5}, 2, WEFT_ERR_FORMAT, WEFT_ERR_FORMAT},
        {"weft-tokens", 3, 5, 0, "0123456789abcdef", {0, 2, 5}, 2, WEFT_ERR_VERSION, WEFT_ERR_VERSION},
        {"weft-tokens", 1, 0, 0, "0123456789abcdef", {0, 2, 5}, 2, WEFT_ERR_CORRUPT, WEFT_ERR_CORRUPT},
        {"weft-tokens", 1, 5, 5, "0123456789abcdef", {0, 2, 5}, 2, WEFT_ERR_CORRUPT, WEFT_ERR_CORRUPT},
        {"weft-tokens", 1, 70000, 0, "0123456789abcdef", {0, 2, 5}, 2, WEFT_ERR_CORRUPT, WEFT_ERR_CORRUPT},
        {"weft-tokens", 1, 5, 0, "0123456789abcdeg", {0, 2, 5}, 2, WEFT_ERR_CORRUPT, WEFT_ERR_CORRUPT},
        {"weft-tokens", 1, 5, 0, "0123456789abcdef", {1, 2, 5}, 2, WEFT_ERR_CORRUPT, WEFT_ERR_CORRUPT},
        {"weft-tokens", 1, 5, 0, "0123456789abcdef", {0, 2, 6}, 2, WEFT_ERR_CORRUPT, WEFT_ERR_CORRUPT},
        {"weft-tokens", 1, 5, 0, "0123456789abcdef", {0, 9, 5}, 2, WEFT_OK, WEFT_ERR_CORRUPT},
        {"weft-tokens", 1, 5, 0, "0123456789abcdef", {0, 2, 5}, 5, WEFT_OK, WEFT_ERR_CORRUPT},
    };
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "a.wtok.h5");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        weft_shard_info info;
        assert_int_equal(write_forged(path, cases[i].format, cases[i].version, cases[i].vocab, cases[i].eot,
                                      cases[i].tokenizer, cases[i].doc, cases[i].third),
                         WEFT_OK);
        weft_clear_error();
        if (weft_shard_info_read(path, &info) != cases[i].opens ||
            weft_shard_verify(path, &info) != cases[i].verifies)
            fail_msg("case %zu: %s", i, weft_last_error());
        if (cases[i].verifies) assert_non_null(strstr(weft_last_error(), path));
    }
    scratch_close(&t);
}

static void a_flipped_token_is_not_handed_out(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "a.wtok.h5");
    assert_int_equal(write_shard(path, 1000, 500000, NULL), WEFT_OK);
    weft_shard s;
    assert_int_equal(shard_open(path, &s), WEFT_OK);
    int64_t at = s.tokens_set->at + 2 * 400000;
    shard_close(&s);
    FILE *f = fopen(path, "r+b");
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 1, f); /* still an id below the vocabulary */
    fclose(f);
    int32_t tok[8];
    assert_int_equal(shard_open(path, &s), WEFT_OK);
    assert_int_equal(shard_copy(&s, 0, 8, tok), WEFT_OK);
    assert_int_equal(shard_copy(&s, 400000, 1, tok), WEFT_ERR_CORRUPT);
    assert_non_null(strstr(weft_last_error(), path));
    assert_non_null(strstr(weft_last_error(), "/tokens"));
    shard_close(&s);
    assert_int_equal(weft_shard_verify(path, NULL), WEFT_ERR_CORRUPT);
    scratch_close(&t);
}

static void failures_leave_nothing(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_WRITE, WEFT_FAULT_SYNC, WEFT_FAULT_RENAME,
                                            WEFT_FAULT_READ, WEFT_FAULT_ALLOC};
    for (size_t k = 0; k < sizeof sites / sizeof *sites; k++)
        for (long n = 1;; n++) {
            scratch t;
            assert_int_equal(scratch_open(&t), 0);
            const char *path = scratch_path(&t, "a.wtok.h5");
            weft_fault_arm(sites[k], n);
            weft_status s = write_shard(path, 1000, 30000, NULL);
            weft_fault_arm(sites[k], 0);
            if (access(path, F_OK) == 0) /* after the rename only the directory's sync can fail */
                assert_int_equal(weft_shard_verify(path, NULL), WEFT_OK);
            else
                assert_int_equal(scratch_files(&t), 0);
            scratch_close(&t);
            if (s == WEFT_OK) {
                assert_true(n > 1);
                break;
            }
        }
}

static void an_old_shard_survives_a_failed_new_one(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "a.wtok.h5");
    weft_shard_info info;
    assert_int_equal(write_shard(path, 1000, 1234, NULL), WEFT_OK);
    weft_fault_arm(WEFT_FAULT_RENAME, 1);
    assert_int_equal(write_shard(path, 1000, 777, NULL), WEFT_ERR_IO);
    weft_fault_arm(WEFT_FAULT_RENAME, 0);
    assert_int_equal(weft_shard_verify(path, &info), WEFT_OK);
    assert_int_equal(info.tokens, 1234);
    assert_int_equal(scratch_files(&t), 1);
    scratch_close(&t);
}

static void a_full_disk_and_a_closed_directory(void **state) {
    (void)state;
    scratch t;
    assert_int_equal(scratch_open(&t), 0);
    const char *path = scratch_path(&t, "a.wtok.h5");
    int root = geteuid() == 0;
    assert_int_equal(chmod(t.dir, 0555), 0);
    if (root) assert_int_equal(seteuid(65534), 0);
    assert_int_equal(write_shard(path, 1000, 100, NULL), WEFT_ERR_ACCESS);
    if (root) assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(t.dir, 0755), 0);
    assert_int_equal(scratch_files(&t), 0);
    if (root && mount("tmpfs", t.dir, "tmpfs", 0, "size=256k") == 0) {
        weft_status s = write_shard(path, 1000, 90000, NULL); /* the spool fits, the copy does not */
        int left = scratch_files(&t);
        umount(t.dir);
        assert_int_equal(s, WEFT_ERR_SPACE);
        assert_int_equal(left, 0);
    }
    scratch_close(&t);
}

int main(int argc, char **argv) {
    if (argc > 1) seed = strtoull(argv[1], NULL, 10);
    print_message("seed %" PRIu64 "\n", seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_come_back),
        cmocka_unit_test(masks_come_back),
        cmocka_unit_test(wrong_masks_are_refused),
        cmocka_unit_test(wrong_ids_are_refused),
        cmocka_unit_test(forged_shards_are_refused),
        cmocka_unit_test(a_flipped_token_is_not_handed_out),
        cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(an_old_shard_survives_a_failed_new_one),
        cmocka_unit_test(a_full_disk_and_a_closed_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
