/* The event file, decoded here from the format's definition: framing, checksums, messages, and the same
 * numbers as metrics.jsonl. */
#include <dirent.h>
#include <math.h>

#include "base/crc32c.h"
#include "base/rng.h"
#include "io/metrics/metrics.h"
#include "io/metrics/tensorboard.h"
#include "tests/support/scratch.h"

/* One bit at a time, from the polynomial: shares nothing with the writer's table. */
static uint32_t slow_crc(const unsigned char *p, size_t n) {
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t in = (p[i] >> bit & 1) ^ (c & 1);
            c = c >> 1 ^ (in ? 0x82f63b78u : 0);
        }
    return ~c;
}

static uint32_t unmask(uint32_t m) {
    uint32_t r = m - 0xa282ead8u;
    return r >> 17 | r << 15;
}

static void checksums_match_published_values(void **state) {
    unsigned char zeros[32] = {0}, ones[32], ascending[32];
    (void)state;
    memset(ones, 0xff, 32);
    for (int i = 0; i < 32; i++) ascending[i] = (unsigned char)i;
    assert_int_equal(weft_crc32c(0, "123456789", 9),
                     0xe3069283u); /* RFC 3720, B.4, and the usual check value */
    assert_int_equal(weft_crc32c(0, zeros, 32), 0x8a9136aau);
    assert_int_equal(weft_crc32c(0, ones, 32), 0x62a8ab43u);
    assert_int_equal(weft_crc32c(0, ascending, 32), 0x46dd794eu);
    uint64_t seed = test_seed();
    for (uint64_t i = 0; i < 200; i++) {
        unsigned char data[300];
        size_t n = weft_rng_u64(seed, 1, i) % sizeof data;
        for (size_t k = 0; k < n; k++) data[k] = (unsigned char)weft_rng_u64(seed, 2 + i, k);
        size_t cut = n / 3;
        assert_int_equal(weft_crc32c(0, data, n), slow_crc(data, n));
        assert_int_equal(weft_crc32c(weft_crc32c(0, data, cut), data + cut, n - cut), slow_crc(data, n));
        assert_int_equal(weft_crc32c_portable(0, data, n), slow_crc(data, n));
        assert_int_equal(unmask(tb_mask(weft_crc32c(0, data, n))), slow_crc(data, n));
    }
}

/* ---- a decoder ---- */

static uint64_t le(const unsigned char *p, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)p[i] << 8 * i;
    return v;
}

typedef struct field {
    uint32_t number, type;
    uint64_t value;
    const unsigned char *data; /* type 2 */
} field;

static uint64_t varint(const unsigned char **p, const unsigned char *end) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        assert_true(*p < end);
        v |= (uint64_t)(**p & 0x7f) << shift;
        if (!(*(*p)++ & 0x80)) break;
    }
    return v;
}

static int next_field(const unsigned char **p, const unsigned char *end, field *f) {
    if (*p == end) return 0;
    uint64_t key = varint(p, end);
    f->number = (uint32_t)(key >> 3);
    f->type = key & 7;
    f->data = NULL;
    int bytes = f->type == 1 ? 8 : f->type == 5 ? 4 : 0;
    if (bytes) {
        assert_true(end - *p >= bytes);
        f->value = le(*p, bytes);
        *p += bytes;
    } else {
        f->value = varint(p, end);
        if (f->type == 2) {
            assert_true((uint64_t)(end - *p) >= f->value);
            f->data = *p;
            *p += f->value;
        } else {
            assert_int_equal(f->type, 0);
        }
    }
    return 1;
}

typedef struct scalar {
    double wall;
    int64_t step;
    char tag[64];
    float value;
} scalar;

typedef struct decoded {
    int version, n;
    scalar s[4096];
} decoded;

static void decode_value(const unsigned char *p, const unsigned char *end, scalar *s) {
    field f;
    int tag = 0, value = 0;
    while (next_field(&p, end, &f)) {
        if (f.number == 1 && f.type == 2) {
            assert_true(f.value < sizeof s->tag);
            memcpy(s->tag, f.data, f.value);
            s->tag[f.value] = 0;
            tag = 1;
        } else {
            assert_int_equal(f.number, 2);
            assert_int_equal(f.type, 5);
            uint32_t bits = (uint32_t)f.value;
            memcpy(&s->value, &bits, 4);
            value = 1;
        }
    }
    assert_true(tag && value);
}

static void decode_event(const unsigned char *p, const unsigned char *end, decoded *d) {
    field f;
    scalar common = {0};
    const unsigned char *summary = NULL;
    uint64_t nsummary = 0;
    while (next_field(&p, end, &f)) {
        if (f.number == 1) {
            assert_int_equal(f.type, 1);
            memcpy(&common.wall, &f.value, 8);
        } else if (f.number == 2) {
            assert_int_equal(f.type, 0);
            common.step = (int64_t)f.value;
        } else if (f.number == 3) {
            assert_int_equal(f.value, 13);
            assert_memory_equal(f.data, "brain.Event:2", 13);
            assert_int_equal(d->n, 0); /* the first of the file */
            d->version++;
        } else {
            assert_int_equal(f.number, 5);
            summary = f.data;
            nsummary = f.value;
        }
    }
    for (const unsigned char *q = summary; summary && next_field(&q, summary + nsummary, &f);) {
        assert_int_equal(f.number, 1);
        assert_true(d->n < 4096);
        d->s[d->n] = common;
        decode_value(f.data, f.data + f.value, &d->s[d->n++]);
    }
}

/* Fails the test unless the whole file is well formed. */
static void decode(const unsigned char *p, size_t n, decoded *d) {
    const unsigned char *end = p + n;
    memset(d, 0, sizeof *d);
    while (p < end) {
        assert_true(end - p >= 12);
        uint64_t len = le(p, 8);
        assert_int_equal(unmask((uint32_t)le(p + 8, 4)), slow_crc(p, 8));
        assert_true((uint64_t)(end - p) >= 16 + len);
        assert_int_equal(unmask((uint32_t)le(p + 12 + len, 4)), slow_crc(p + 12, len));
        decode_event(p + 12, p + 12 + len, d);
        p += 16 + len;
    }
    assert_int_equal(d->version, 1);
}

static int find_events(const char *dir, char *path, size_t cap) {
    DIR *d = opendir(dir);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (!strncmp(e->d_name, "events.out.tfevents.", 20)) {
            snprintf(path, cap, "%s/%s", dir, e->d_name);
            n++;
        }
    closedir(d);
    return n;
}

static void the_event_file_says_what_the_jsonl_says(void **state) {
    static decoded d;
    enum { RECORDS = 300, METRICS = 12 };
    char name[32], path[4200], *text;
    uint32_t id[METRICS];
    uint64_t seed = test_seed();
    weft_metrics *m;
    weft_history h;
    size_t n;
    for (int i = 0; i < METRICS; i++) {
        snprintf(name, sizeof name, "tb/metric_%d", i);
        id[i] = weft_metric(name, WEFT_METRIC_GAUGE, "");
    }
    assert_ok(weft_metrics_open(*state, "s", 1, &m));
    for (int r = 0; r < RECORDS; r++) {
        for (int i = 0; i < METRICS; i++) {
            uint64_t bits = weft_rng_u64(seed, (uint64_t)i, (uint64_t)r);
            double v = ldexp((double)(int64_t)bits, (int)(bits >> 8 & 31) - 80);
            weft_metric_set(id[i], bits & 1 ? NAN : i % 2 ? v : (double)(float)v);
        }
        assert_ok(weft_metrics_emit(m, r * 1000003, 0, (uint64_t)r));
    }
    assert_ok(weft_metrics_event(m, "ignored", NULL));
    weft_metrics_close(m);

    assert_int_equal(find_events(*state, path, sizeof path), 1);
    assert_ok(weft_file_read(path, 64 << 20, &text, &n));
    decode((unsigned char *)text, n, &d);
    char *jsonl = weft_path_join(*state, "metrics.jsonl");
    assert_ok(weft_history_read(jsonl, &h));
    size_t total = 0, at[METRICS] = {0};
    for (size_t i = 0; i < h.nseries; i++) total += h.series[i].n;
    assert_int_equal(d.n, total);
    for (int i = 0; i < d.n; i++) {
        const weft_series *s = weft_history_find(&h, d.s[i].tag);
        assert_non_null(s);
        size_t k = at[s - h.series]++;
        assert_true(k < s->n);
        /* A float32 is the same in both; a double is rounded twice on its way, to 9 digits and to a float32.
         */
        int even = (d.s[i].tag[strlen(d.s[i].tag) - 1] - '0') % 2 == 0;
        double apart = fabs((float)s->value[k] - (double)d.s[i].value);
        assert_true(even ? apart == 0 : apart <= 1.2e-7 * fabs(s->value[k]));
        assert_true(s->step[k] == (double)d.s[i].step);
        assert_true(fabs(s->t[k] - d.s[i].wall) < 0.001);
    }
    for (size_t i = 0; i < h.nseries; i++) assert_int_equal(at[i], h.series[i].n);
    weft_history_free(&h);
    free(jsonl);

    text[n / 2] ^= 4; /* negative control: the decoder sees one flipped bit */
    size_t seen = 0;
    for (const unsigned char *p = (unsigned char *)text; p + 12 < (unsigned char *)text + n;) {
        uint64_t len = le(p, 8);
        if (unmask((uint32_t)le(p + 8, 4)) != slow_crc(p, 8) ||
            unmask((uint32_t)le(p + 12 + len, 4)) != slow_crc(p + 12, len)) {
            seen = 1;
            break;
        }
        p += 16 + len;
    }
    assert_int_equal(seen, 1);
    free(text);
}

static void opening_twice_makes_two_files(void **state) {
    char path[4200];
    weft_metrics *m;
    for (int i = 0; i < 2; i++) {
        assert_ok(weft_metrics_open(*state, "s", 1, &m));
        weft_metrics_close(m);
    }
    assert_int_equal(find_events(*state, path, sizeof path), 2);
}

static void large_and_negative_steps_are_varints(void **state) {
    static decoded d;
    static const int64_t steps[] = {0, 1, 127, 128, 16384, INT64_MAX, -1, INT64_MIN};
    char path[4200], *text;
    size_t n;
    tb_writer *w;
    assert_ok(tb_open(*state, &w));
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        tb_begin(w, 1.5, steps[i]);
        tb_scalar(w, "x", (float)i);
        tb_scalar(w, "0123456789012345678901234567890123456789012345678901234567890123",
                  1); /* too long: left out */
        assert_ok(tb_end(w));
    }
    tb_close(w);
    find_events(*state, path, sizeof path);
    assert_ok(weft_file_read(path, 1 << 20, &text, &n));
    decode((unsigned char *)text, n, &d);
    assert_int_equal(d.n, sizeof steps / sizeof *steps);
    for (int i = 0; i < d.n; i++) {
        assert_true(d.s[i].step == steps[i]);
        assert_true(d.s[i].value == (float)i && d.s[i].wall == 1.5);
    }
    free(text);
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums_match_published_values),
        in_scratch(the_event_file_says_what_the_jsonl_says),
        in_scratch(opening_twice_makes_two_files),
        in_scratch(large_and_negative_steps_are_varints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
