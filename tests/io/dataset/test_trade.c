/* Token files of other programs: in and out byte for byte, in place with the same stream of samples, and refused when a
 * number in them is wrong. The files are built here from the description of the formats. */
#include "base/fault.h"
#include "base/rng.h"
#include "io/dataset/adopt.h"
#include "io/dataset/shard.h"
#include "io/dataset/trade.h"
#include "tests/support/scratch.h"

/* ---- files in memory ---- */

typedef struct image {
    char bytes[1 << 16];
    size_t n;
} image;

static void add(image *m, const void *p, size_t n) {
    assert_true(m->n + n <= sizeof m->bytes);
    memcpy(m->bytes + m->n, p, n);
    m->n += n;
}

static void add_word(image *m, uint64_t v, size_t bytes) {
    add(m, &v, bytes);
}

/* Tokens 0 .. n-1 of a text of `vocab` ids, eot where a document begins. */
static uint32_t token_at(uint64_t i, uint32_t vocab, uint32_t eot) {
    uint32_t id = (uint32_t)(weft_rng_u64(7, 1, i) % (vocab - 1));
    if (id >= eot) id++;
    return i == 0 || i == 3 || i == 40 || i == 41 || i == 900 ? eot : id;
}

enum { TOKENS = 1000, DOCS = 5 };
static const int64_t starts[] = {0, 3, 40, 41, 900, TOKENS};

static void add_tokens(image *m, uint32_t vocab, uint32_t eot, size_t width) {
    for (uint64_t i = 0; i < TOKENS; i++) add_word(m, token_at(i, vocab, eot), width);
}

/* A .bin and .idx as Megatron's builder makes them. split: the last document has two sequences. */
static void megatron(image *bin, image *idx, unsigned code, size_t width, uint32_t vocab, uint32_t eot,
                     int split) {
    const uint64_t sequences = DOCS + (uint64_t)split;
    int64_t at[DOCS + 2];
    memcpy(at, starts, sizeof starts);
    if (split) {
        at[DOCS] = 950;
        at[DOCS + 1] = TOKENS;
    }
    bin->n = idx->n = 0;
    add_tokens(bin, vocab, eot, width);
    add(idx, "MMIDIDX\0\0", 9);
    add_word(idx, 1, 8);
    add_word(idx, code, 1);
    add_word(idx, sequences, 8);
    add_word(idx, DOCS + 1, 8);
    for (uint64_t i = 0; i < sequences; i++) add_word(idx, (uint64_t)(at[i + 1] - at[i]), 4);
    for (uint64_t i = 0; i < sequences; i++) add_word(idx, (uint64_t)at[i] * width, 8);
    for (uint64_t i = 0; i < DOCS; i++) add_word(idx, i, 8);
    add_word(idx, sequences, 8);
}

static void llmc(image *m, int llama, uint32_t vocab, uint32_t eot) {
    m->n = 0;
    add_word(m, llama ? 20240801 : 20240520, 4);
    add_word(m, llama ? 7 : 1, 4);
    add_word(m, TOKENS, 4);
    while (m->n < 1024) add_word(m, 0, 4);
    add_tokens(m, vocab, eot, llama ? 4 : 2);
}

static void save(const char *path, const image *m) {
    assert_ok(weft_file_write(path, m->bytes, m->n));
}

static void assert_file(const char *path, const image *m) {
    char *text;
    size_t n;
    assert_ok(weft_file_read(path, 1 << 20, &text, &n));
    assert_int_equal(n, m->n);
    assert_memory_equal(text, m->bytes, n);
    free(text);
}

static image bin, idx, other;
static char dir[4096];

static const char *in(const char *name) {
    static char path[8][5000];
    static int k;
    char *p = path[k++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static weft_import_opts opts(uint32_t vocab, int64_t eot) {
    return (weft_import_opts){
        .size = sizeof(weft_import_opts), .raw = TOKEN_TYPES, .vocab = vocab, .eot = eot};
}

/* The shard has the 1000 tokens, and documents where they should be. */
static void assert_shard(const char *path, uint32_t vocab, uint32_t eot, const int64_t *doc, uint64_t docs) {
    weft_shard s;
    int32_t ids[TOKENS];
    assert_ok(weft_shard_verify(path, NULL));
    assert_ok(shard_open(path, &s));
    assert_int_equal(s.info.tokens, TOKENS);
    assert_int_equal(s.info.vocab, vocab);
    assert_int_equal(s.info.docs, docs);
    for (uint64_t i = 0; i <= docs; i++) assert_int_equal(shard_doc(&s)[i], doc[i]);
    assert_ok(shard_copy(&s, 0, TOKENS, ids));
    for (uint64_t i = 0; i < TOKENS; i++) assert_int_equal(ids[i], token_at(i, vocab, eot));
    shard_close(&s);
}

/* ---- tests ---- */

static void megatron_comes_back_byte_for_byte(void **state) {
    (void)state;
    static const struct {
        unsigned code;
        size_t width;
        uint32_t vocab;
    } kinds[] = {{8, 2, 50257}, {4, 4, 128256}};
    for (int i = 0; i < 2; i++) {
        megatron(&bin, &idx, kinds[i].code, kinds[i].width, kinds[i].vocab, 11, 0);
        save(in("m.bin"), &bin);
        save(in("m.idx"), &idx);
        weft_import_opts o = opts(kinds[i].vocab, 11);
        assert_ok(weft_data_import(in("m.bin"), in("m.wtok.h5"), &o, NULL));
        assert_shard(in("m.wtok.h5"), kinds[i].vocab, 11, starts, DOCS);
        assert_ok(weft_data_export(in("m.wtok.h5"), WEFT_EXPORT_MEGATRON, in("back"), NULL, NULL));
        assert_file(in("back.bin"), &bin);
        assert_file(in("back.idx"), &idx);

        /* control: another token is another file */
        bin.bytes[2 * kinds[i].width] ^= 1;
        save(in("m.bin"), &bin);
        assert_ok(weft_data_import(in("m"), in("m.wtok.h5"), &o, NULL)); /* by its stem, too */
        assert_ok(weft_data_export(in("m.wtok.h5"), WEFT_EXPORT_MEGATRON, in("back.bin"), NULL, NULL));
        assert_file(in("back.bin"), &bin);
        bin.bytes[2 * kinds[i].width] ^= 1;
    }
    /* two sequences are one document; wider and narrower integers hold the same ids */
    static const struct {
        unsigned code;
        size_t width;
    } types[] = {{8, 2}, {4, 4}, {5, 8}, {3, 2}, {1, 1}};
    for (int i = 0; i < 5; i++) {
        uint32_t vocab = types[i].width == 1 ? 200 : 5000;
        megatron(&bin, &idx, types[i].code, types[i].width, vocab, 11, 1);
        save(in("m.bin"), &bin);
        save(in("m.idx"), &idx);
        weft_import_opts o = opts(vocab, 11);
        assert_ok(weft_data_import(in("m.idx"), in("m.wtok.h5"), &o, NULL));
        assert_shard(in("m.wtok.h5"), vocab, 11, starts, DOCS);
    }
}

static void llmc_comes_back_byte_for_byte(void **state) {
    (void)state;
    for (int llama = 0; llama < 2; llama++) {
        uint32_t vocab = llama ? 128256 : 50257, eot = llama ? 128000 : 50256;
        llmc(&bin, llama, vocab, eot);
        save(in("l.bin"), &bin);
        weft_import_opts o = opts(0, -1); /* the format implies both */
        assert_ok(weft_data_import(in("l.bin"), in("l.wtok.h5"), &o, NULL));
        assert_shard(in("l.wtok.h5"), vocab, eot, starts, DOCS); /* documents begin with eot */
        assert_ok(weft_data_export(in("l.wtok.h5"), WEFT_EXPORT_LLMC, in("lback"), NULL, NULL));
        assert_file(in("lback.bin"), &bin);
        assert_int_equal(access(in("lback.idx"), F_OK), -1);
    }
}

static void headerless_files_end_documents_with_eot(void **state) {
    (void)state;
    static const int64_t ends[] = {0, 1, 4, 41, 42, 901, TOKENS};
    static const int64_t one[] = {0, TOKENS};
    bin.n = 0;
    add_tokens(&bin, 50257, 50256, 2);
    save(in("n.bin"), &bin);
    weft_import_opts o = opts(50257, 50256);
    o.raw = TOKEN_U16;
    o.eot_ends = 1;
    assert_ok(weft_data_import(in("n.bin"), in("n.wtok.h5"), &o, NULL));
    assert_shard(in("n.wtok.h5"), 50257, 50256, ends, 6);
    o.eot_ends = 0;
    assert_ok(weft_data_import(in("n.bin"), in("n.wtok.h5"), &o, NULL));
    assert_shard(in("n.wtok.h5"), 50257, 50256, starts, DOCS);
    o.eot = -2;
    assert_ok(weft_data_import(in("n.bin"), in("n.wtok.h5"), &o, NULL));
    assert_shard(in("n.wtok.h5"), 50257, 50256, one, 1);
    o = opts(50257, 50256);
    assert_error(weft_data_import(in("n.bin"), in("x.wtok.h5"), &o, NULL), WEFT_ERR_FORMAT, "--dtype");
    o.raw = TOKEN_U16;
    o.vocab = 0;
    assert_error(weft_data_import(in("n.bin"), in("x.wtok.h5"), &o, NULL), WEFT_ERR_ARG, "--vocab");
    add_word(&bin, 7, 1);
    save(in("n.bin"), &bin);
    o.vocab = 50257;
    assert_error(weft_data_import(in("n.bin"), in("x.wtok.h5"), &o, NULL), WEFT_ERR_FORMAT,
                 "no tokens of u16");
    assert_int_equal(access(in("x.wtok.h5"), F_OK), -1);
}

/* Samples of a file in place are those of the shard that it would be. */
static void assert_same_stream(const char *a, const char *b) {
    enum { T = 16, N = 200 };
    const char *path[] = {a, b};
    int32_t tok[2][N][T + 1];
    uint64_t sum[2][2];
    for (int i = 0; i < 2; i++) {
        const weft_source_spec src = {"s", 1, &path[i], 1};
        weft_data *d;
        uint64_t g[N];
        assert_ok(weft_data_open(&src, 1, T, 5, 0, &d));
        for (uint64_t k = 0; k < N; k++) g[k] = k;
        assert_ok(weft_data_get(d, g, N, &tok[i][0][0]));
        assert_ok(weft_data_hash(d, g, N, sum[i]));
        weft_data_close(d);
    }
    assert_memory_equal(tok[0], tok[1], sizeof tok[0]);
    assert_memory_equal(sum[0], sum[1], sizeof sum[0]);
}

static void in_place_gives_the_same_samples(void **state) {
    (void)state;
    static const int64_t one[] = {0, TOKENS};
    weft_import_opts o = opts(50257, 11);
    weft_shard_info info;
    for (int i32 = 0; i32 < 2; i32++) {
        megatron(&bin, &idx, i32 ? 4 : 8, i32 ? 4 : 2, 50257, 11, 1);
        save(in("p.bin"), &bin);
        save(in("p.idx"), &idx);
        assert_ok(weft_data_import(in("p.bin"), in("p.wtok.h5"), &o, NULL));
        assert_ok(weft_data_adopt(in("p.bin"), &o, &info));
        assert_int_equal(info.docs, DOCS);
        assert_file(in("p.bin"), &bin); /* untouched */
        assert_shard(in("p.bin"), 50257, 11, starts, DOCS);
        assert_same_stream(in("p.bin"), in("p.wtok.h5"));
        /* a file in place is exported like a shard */
        assert_ok(weft_data_export(in("p.bin"), WEFT_EXPORT_LLMC, in("q"), NULL, NULL));
        llmc(&other, 0, 50257, 11);
        assert_file(in("q.bin"), &other);
    }
    assert_ok(weft_data_adopt(in("q.bin"), &o, &info)); /* llm.c, in place: one document */
    assert_shard(in("q.bin"), 50257, 11, one, 1);
    assert_same_stream(in("q.bin"), in("p.wtok.h5"));
    bin.n = 0;
    add_tokens(&bin, 50257, 11, 2);
    save(in("r.bin"), &bin);
    o.raw = TOKEN_U16;
    assert_ok(weft_data_adopt(in("r.bin"), &o, &info));
    assert_same_stream(in("r.bin"), in("p.wtok.h5"));
    o.raw = TOKEN_I64;
    assert_error(weft_data_adopt(in("r.bin"), &o, &info), WEFT_ERR_UNSUPPORTED, "only u16, i32 and u32");
}

static void a_file_that_changed_is_not_used(void **state) {
    (void)state;
    weft_import_opts o = opts(50257, 11);
    weft_shard_info info;
    weft_shard s;
    int32_t ids[4];
    megatron(&bin, &idx, 8, 2, 50257, 11, 0);
    save(in("c.bin"), &bin);
    save(in("c.idx"), &idx);
    assert_ok(weft_data_adopt(in("c.bin"), &o, &info));
    bin.bytes[777] ^= 4; /* a token, an id that exists */
    save(in("c.bin"), &bin);
    assert_ok(shard_open(in("c.bin"), &s)); /* found when it is looked at, before it is used */
    assert_error(shard_copy(&s, 0, 4, ids), WEFT_ERR_CORRUPT, "is damaged, or was changed");
    shard_close(&s);
    assert_error(weft_shard_verify(in("c.bin"), NULL), WEFT_ERR_CORRUPT, "c.bin");
    bin.bytes[777] ^= 4;
    save(in("c.bin"), &bin);
    assert_ok(weft_shard_verify(in("c.bin"), NULL));
    idx.bytes[34] ^= 1; /* lengths no longer fit */
    save(in("c.idx"), &idx);
    assert_error(shard_open(in("c.bin"), &s), WEFT_ERR_UNSUPPORTED, "not behind the one before");
    idx.bytes[34] ^= 1;
    megatron(&bin, &other, 8, 2, 50257, 11, 1); /* another index of the same tokens */
    save(in("c.idx"), &other);
    assert_error(shard_open(in("c.bin"), &s), WEFT_ERR_CORRUPT, "its index");
    save(in("c.idx"), &idx);
    assert_ok(weft_shard_verify(in("c.bin"), NULL));
    unlink(in("c.idx"));
    assert_error(shard_open(in("c.bin"), &s), WEFT_ERR_FORMAT, "no .idx");
}

/* The import of a file with one number changed. */
static void refused_idx(size_t at, uint64_t value, size_t bytes, weft_status status, const char *part) {
    weft_import_opts o = opts(50257, 11);
    other = idx;
    memcpy(other.bytes + at, &value, bytes);
    save(in("b.idx"), &other);
    assert_error(weft_data_import(in("b.bin"), in("b.wtok.h5"), &o, NULL), status, part);
}

static void wrong_numbers_are_refused(void **state) {
    (void)state;
    weft_import_opts o = opts(50257, 11);
    const size_t sizes = 34, pointers = sizes + 4 * DOCS, index = pointers + 8 * DOCS;
    megatron(&bin, &idx, 8, 2, 50257, 11, 0);
    save(in("b.bin"), &bin);
    refused_idx(0, 'X', 1, WEFT_ERR_FORMAT, "MMIDIDX");
    refused_idx(9, 2, 8, WEFT_ERR_VERSION, "version 2");
    refused_idx(17, 7, 1, WEFT_ERR_UNSUPPORTED, "holds no token ids");
    refused_idx(17, 9, 1, WEFT_ERR_FORMAT, "element type 9");
    refused_idx(17, 4, 1, WEFT_ERR_UNSUPPORTED, "begins at byte");
    refused_idx(18, DOCS + 1, 8, WEFT_ERR_FORMAT, "truncated");
    refused_idx(18, UINT64_MAX, 8, WEFT_ERR_FORMAT, "truncated");
    refused_idx(18, (uint64_t)1 << 61, 8, WEFT_ERR_FORMAT, "truncated");
    refused_idx(26, UINT64_MAX / 8 + 2, 8, WEFT_ERR_FORMAT, "truncated");
    refused_idx(26, 2, 8, WEFT_ERR_FORMAT, "of which its counts explain");
    refused_idx(sizes, (uint32_t)-3, 4, WEFT_ERR_FORMAT, "has the length -3");
    refused_idx(sizes + 4 * (DOCS - 1), 101, 4, WEFT_ERR_FORMAT, "its .bin has 2000 bytes");
    refused_idx(pointers + 8, 8, 8, WEFT_ERR_UNSUPPORTED, "sequence 1 begins at byte 8");
    refused_idx(index, 1, 8, WEFT_ERR_FORMAT, "does not go up");
    refused_idx(index + 8 * 2, 0, 8, WEFT_ERR_FORMAT, "does not go up");
    refused_idx(index + 8 * DOCS, DOCS - 1, 8, WEFT_ERR_FORMAT, "does not go up");
    refused_idx(index + 8 * DOCS, (uint64_t)-1, 8, WEFT_ERR_FORMAT, "does not go up");
    other = idx;
    other.n -= 1;
    save(in("b.idx"), &other);
    assert_error(weft_data_import(in("b.bin"), in("b.wtok.h5"), &o, NULL), WEFT_ERR_FORMAT, "truncated");
    other = idx;
    for (int i = 0; i < DOCS; i++) add_word(&other, 0, 1);
    save(in("b.idx"), &other);
    assert_error(weft_data_import(in("b.bin"), in("b.wtok.h5"), &o, NULL), WEFT_ERR_UNSUPPORTED,
                 "multimodal");
    o.vocab = 300;
    save(in("b.idx"), &idx);
    assert_error(weft_data_import(in("b.bin"), in("b.wtok.h5"), &o, NULL), WEFT_ERR_VOCAB,
                 "the vocabulary ends at 300");
    assert_error(weft_data_adopt(in("b.bin"), &o, NULL), WEFT_ERR_VOCAB, "the vocabulary ends at 300");
    o = opts(50257, 50257);
    assert_error(weft_data_import(in("b.bin"), in("b.wtok.h5"), &o, NULL), WEFT_ERR_VOCAB,
                 "end of text 50257");
    megatron(&bin, &idx, 4, 4, 50257, 11, 0);
    bin.bytes[4 * 500 + 3] = (char)0x80; /* a negative id */
    save(in("b.bin"), &bin);
    save(in("b.idx"), &idx);
    o.eot = 11;
    assert_error(weft_data_import(in("b.bin"), in("b.wtok.h5"), &o, NULL), WEFT_ERR_VOCAB, "token 500 is");

    llmc(&bin, 0, 50257, 50256);
    static const struct {
        int word;
        uint32_t v;
        weft_status status;
        const char *part;
    } heads[] = {{0, 20240522, WEFT_ERR_UNSUPPORTED, "questions"},
                 {0, 5, WEFT_ERR_FORMAT, "magic 5"},
                 {1, 2, WEFT_ERR_VERSION, "version 2"},
                 {2, TOKENS + 1, WEFT_ERR_FORMAT, "truncated"},
                 {2, (uint32_t)-1, WEFT_ERR_FORMAT, "truncated"},
                 {0, 20240801, WEFT_ERR_VERSION, "reads 7"}};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        other = bin;
        memcpy(other.bytes + 4 * heads[i].word, &heads[i].v, 4);
        save(in("h.bin"), &other);
        o = opts(50257, -1);
        assert_error(weft_data_import(in("h.bin"), in("b.wtok.h5"), &o, NULL), heads[i].status,
                     heads[i].part);
    }
    assert_int_equal(access(in("b.wtok.h5"), F_OK), -1);
    assert_int_equal(access(in("b.bin.weft.json"), F_OK), -1);
}

/* A shard with a mask has no place in these formats; a failure leaves nothing. */
static void failures_leave_nothing(void **state) {
    (void)state;
    static const weft_fault_site sites[] = {WEFT_FAULT_WRITE, WEFT_FAULT_SYNC, WEFT_FAULT_RENAME};
    const weft_shard_info info = {.vocab = 10, .eot = -1, .masked = 1};
    const uint32_t ids[] = {1, 2, 3};
    const uint8_t mask[] = {0, 1, 1};
    weft_shard_writer *w;
    assert_ok(weft_shard_create(in("k.wtok.h5"), &info, &w));
    assert_ok(weft_shard_append(w, ids, mask, 3, 0));
    assert_ok(weft_shard_finish(w, NULL));
    assert_error(weft_data_export(in("k.wtok.h5"), WEFT_EXPORT_LLMC, in("k"), NULL, NULL),
                 WEFT_ERR_UNSUPPORTED, "loss mask");
    assert_int_equal(access(in("k.bin"), F_OK), -1);

    weft_import_opts o = opts(50257, 11);
    megatron(&bin, &idx, 8, 2, 50257, 11, 0);
    save(in("f.bin"), &bin);
    save(in("f.idx"), &idx);
    assert_ok(weft_data_import(in("f.bin"), in("f.wtok.h5"), &o, NULL));
    for (int i = 0; i < 3; i++)
        for (long nth = 1;; nth++) {
            weft_fault_arm(sites[i], nth);
            weft_status s = weft_data_export(in("f.wtok.h5"), WEFT_EXPORT_MEGATRON, in("g"), NULL, NULL);
            weft_fault_arm(sites[i], 0);
            if (access(in("g.idx"), F_OK) == 0) { /* the index is last: with it all is there */
                assert_file(in("g.bin"), &bin);
                assert_file(in("g.idx"), &idx);
            }
            unlink(in("g.bin"));
            unlink(in("g.idx"));
            if (s == WEFT_OK) break;
            assert_true(nth < 20);
        }
    for (long nth = 1;; nth++) {
        weft_fault_arm(WEFT_FAULT_WRITE, nth);
        weft_status s = weft_data_adopt(in("f.bin"), &o, NULL);
        weft_fault_arm(WEFT_FAULT_WRITE, 0);
        int there = access(in("f.bin.weft.json"), F_OK) == 0;
        assert_int_equal(there, s == WEFT_OK);
        if (there) break;
    }
    char command[5000];
    snprintf(command, sizeof command, "test -z \"$(ls %s | grep tmp)\"", dir);
    assert_int_equal(system(command), 0);
}

/* Memory that runs out anywhere is an error, and nothing is lost (leaks: the sanitizer's run). */
static void failing_allocations_are_reported(void **state) {
    (void)state;
    weft_import_opts o = opts(50257, 11);
    megatron(&bin, &idx, 8, 2, 50257, 11, 0);
    save(in("a.bin"), &bin);
    save(in("a.idx"), &idx);
    for (int what = 0; what < 4; what++) {
        long nth = 1;
        for (;; nth++) {
            weft_fault_arm(WEFT_FAULT_ALLOC, nth);
            weft_status s = what == 0   ? weft_data_import(in("a.bin"), in("a.wtok.h5"), &o, NULL)
                            : what == 1 ? weft_data_adopt(in("a.bin"), &o, NULL)
                            : what == 2
                                ? weft_shard_verify(in("a.bin"), NULL)
                                : weft_data_export(in("a.bin"), WEFT_EXPORT_MEGATRON, in("ab"), NULL, NULL);
            weft_fault_arm(WEFT_FAULT_ALLOC, 0);
            if (s == WEFT_OK) break;
            assert_true(*weft_last_error() != 0 && nth < 1000);
        }
        assert_true(nth > 2);
    }
    assert_shard(in("a.wtok.h5"), 50257, 11, starts, DOCS);
    assert_file(in("ab.bin"), &bin);
    assert_file(in("ab.idx"), &idx);
}

static int set_up(void **state) {
    if (scratch_make(state) < 0) return 1;
    snprintf(dir, sizeof dir, "%s", (char *)*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(megatron_comes_back_byte_for_byte),
        cmocka_unit_test(llmc_comes_back_byte_for_byte),
        cmocka_unit_test(headerless_files_end_documents_with_eot),
        cmocka_unit_test(in_place_gives_the_same_samples),
        cmocka_unit_test(a_file_that_changed_is_not_used),
        cmocka_unit_test(wrong_numbers_are_refused),
        cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(failing_allocations_are_reported),
    };
    return cmocka_run_group_tests_name("io/dataset/trade", tests, set_up, scratch_remove);
}
