/* The configuration: values, places in messages, nearest names, bounds, and that a dump reads back as itself.
 */
#include <float.h>
#include <locale.h>
#include <math.h>

#include "base/config.h"
#include "base/fault.h"
#include "base/rng.h"
#include "tests/base/config_table.h"
#include "tests/support/scratch.h"

static sample_run run;

static weft_status parse(const char *text, const char *const *sets, size_t nsets, weft_config **c) {
    memset(&run, 0xee, sizeof run);
    return weft_config_parse("run.yaml", text, strlen(text), sets, nsets, sample_keys, SAMPLE_KEYS, &run, c);
}

static void assert_text_fails(const char *text, const char *want) {
    weft_config *c = (weft_config *)1;
    weft_status s = parse(text, NULL, 0, &c);
    if (s != WEFT_ERR_CONFIG || strcmp(weft_last_error(), want) != 0)
        fail_msg("for\n%s\nexpected ERR_CONFIG \"%s\", got %s \"%s\"", text, want, weft_status_name(s),
                 weft_last_error());
    assert_null(c);
}

static void assert_set_fails(const char *set, const char *want) {
    weft_config *c;
    weft_status s = parse("model.layers: 1", &set, 1, &c);
    if (s != WEFT_ERR_CONFIG || strcmp(weft_last_error(), want) != 0)
        fail_msg("for --set %s expected ERR_CONFIG \"%s\", got %s \"%s\"", set, want, weft_status_name(s),
                 weft_last_error());
    assert_null(c);
}

/* ---- values ---- */

static void values_of_every_kind(void **state) {
    weft_config *c;
    (void)state;
    assert_ok(parse("# a comment\nname: \"a \\\"b\\\" \\u00e9\"\nmodel:\n  layers: 1_2\n  bias: off\noptim: "
                    "{lr: 1e-3, kind: sgd-m}\n"
                    "data:\n  files:\n    - one\n    - 'two, three'\n  stop: single\ntokens: 3G\noffset: "
                    "-9223372036854775808\n",
                    NULL, 0, &c));
    assert_string_equal(run.name, "a \"b\" \xc3\xa9");
    assert_int_equal(run.layers, 12);
    assert_int_equal(run.bias, 0);
    assert_true(run.lr == 1e-3);
    assert_int_equal(run.kind, 2);
    assert_int_equal(run.width, 384);
    assert_true(run.beta == 0.95);
    assert_int_equal(run.files.n, 2);
    assert_string_equal(run.files.item[1], "two, three");
    assert_int_equal(run.stop.n, 1);
    assert_string_equal(run.stop.item[0], "single");
    assert_int_equal(run.tokens, 3000000000);
    assert_true(run.offset == INT64_MIN);
    assert_true(weft_config_given(c, "model.layers"));
    assert_false(weft_config_given(c, "model.width"));
    assert_false(weft_config_given(c, "no.such.key"));
    assert_string_equal(weft_config_dump(c),
                        "name: \"a \\\"b\\\" \xc3\xa9\"\nmodel:\n  layers: 12\n  width: 384\n  bias: false\n"
                        "optim:\n  lr: 1e-3\n  kind: sgd-m\n  adam:\n    beta: 0.95\n"
                        "data:\n  files: [one, \"two, three\"]\n  stop: [single]\ntokens: 3000000000\n"
                        "offset: -9223372036854775808\n");
    weft_config_destroy(c);
}

static void defaults_and_nothing(void **state) {
    static const char *const texts[] = {"model.layers: 3", "model: {layers: 3}\nname:\ndata:\n",
                                        "--- \nmodel.layers: 3\nname: ~\n..."};
    weft_config *c;
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_ok(parse(texts[i], NULL, 0, &c));
        assert_null(run.name);
        assert_int_equal(run.files.n, 0);
        assert_int_equal(run.stop.n, 2);
        assert_string_equal(run.stop.item[1], "b, c");
        assert_int_equal(run.tokens, 1000000);
        weft_config_destroy(c);
    }
    assert_ok(parse("model.layers: 3\nname: 'null'\n", NULL, 0, &c));
    assert_string_equal(run.name, "null");
    weft_config_destroy(c);
}

static void integers_and_numbers(void **state) {
    static const struct {
        const char *text;
        int64_t v;
    } good[] = {{"0", 0},
                {"-5", -5},
                {"+7", 7},
                {"4k", 4000},
                {"2M", 2000000},
                {"1G", 1000000000},
                {"1_000_000", 1000000},
                {"9223372036854775807", INT64_MAX},
                {"-9_223_372_036_854_775_808", INT64_MIN},
                {"-3k", -3000}};
    static const char *const bad[] = {"1.5",
                                      "1e3",
                                      "0x10",
                                      "1__0",
                                      "_1",
                                      "1_",
                                      "k",
                                      "1K",
                                      "1kk",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "9223372036854775807k",
                                      "ten",
                                      "1 000",
                                      "--1",
                                      "\"\"",
                                      "true"};
    static const char *const bad_float[] = {"nan", ".inf", "inf", "1e999", "0x1p3", "1e",
                                            "1,5", ".",    "+",   "1_.5",  "e5",    "3 4"};
    char text[100];
    weft_config *c;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(text, sizeof text, "model.layers: 1\noffset: %s\n", good[i].text);
        assert_ok(parse(text, NULL, 0, &c));
        assert_true(run.offset == good[i].v);
        weft_config_destroy(c);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, "offset: %s\n", bad[i]);
        assert_error(parse(text, NULL, 0, &c), WEFT_ERR_CONFIG, "run.yaml:1:9: offset: found '");
    }
    for (size_t i = 0; i < sizeof bad_float / sizeof *bad_float; i++) {
        snprintf(text, sizeof text, "optim.adam.beta: %s\n", bad_float[i]);
        assert_error(parse(text, NULL, 0, &c), WEFT_ERR_CONFIG, "optim.adam.beta: found '");
    }
    assert_ok(parse("model.layers: 1\noptim.adam.beta: -1_000.5e-1", NULL, 0, &c));
    assert_true(run.beta == -100.05);
    weft_config_destroy(c);
}

static void the_locale_of_the_program_does_not_matter(void **state) {
    weft_config *c;
    (void)state;
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "fr_FR.UTF-8")) skip();
    weft_status s = parse("model.layers: 1\noptim.lr: 0.5", NULL, 0, &c);
    setlocale(LC_ALL, "C");
    assert_ok(s);
    assert_true(run.lr == 0.5);
    weft_config_destroy(c);
}

/* ---- messages ---- */

static void unknown_names_are_placed_and_guessed(void **state) {
    (void)state;
    assert_text_fails("model:\n  layer: 3",
                      "run.yaml:2:3: unknown key 'model.layer'; did you mean 'model.layers'?");
    assert_text_fails("model:\n  lyaers: 3",
                      "run.yaml:2:3: unknown key 'model.lyaers'; did you mean 'model.layers'?");
    assert_text_fails("layers: 3", "run.yaml:1:1: unknown key 'layers'; did you mean 'model.layers'?");
    assert_text_fails("\nmodle:\n  layers: 3",
                      "run.yaml:2:1: unknown section 'modle'; did you mean 'model'?");
    assert_text_fails("optim:\n  adm: {beta: 1}",
                      "run.yaml:2:3: unknown section 'optim.adm'; did you mean 'optim.adam'?");
    assert_text_fails("zebra_crossings: 3", "run.yaml:1:1: unknown key 'zebra_crossings'");
    assert_text_fails("x: 3", "run.yaml:1:1: unknown key 'x'");
    assert_text_fails("<<: {a: 1}", "run.yaml:1:1: unknown section '<<'");
    assert_set_fails("model.layer=3",
                     "--set model.layer=3: unknown key 'model.layer'; did you mean 'model.layers'?");
    assert_set_fails("model=3", "--set model=3: 'model' is a section; set its keys one by one");
    assert_set_fails("tokens", "--set tokens: expected key=value");
    assert_set_fails("=3", "--set =3: expected key=value");
}

static void wrong_values_say_found_and_expected(void **state) {
    (void)state;
    assert_text_fails("model:\n  layers: twelve",
                      "run.yaml:2:11: model.layers: found 'twelve', expected an integer from 1 to 1000");
    assert_text_fails("model.layers: 0",
                      "run.yaml:1:15: model.layers: found '0', expected an integer from 1 to 1000");
    assert_text_fails("model.layers: 1001",
                      "run.yaml:1:15: model.layers: found '1001', expected an integer from 1 to 1000");
    assert_text_fails("model.layers:\ntokens: 5",
                      "run.yaml:1:1: model.layers: found nothing, expected an integer from 1 to 1000");
    assert_text_fails("tokens: 0", "run.yaml:1:9: tokens: found '0', expected an integer of at least 1");
    assert_text_fails("optim: {lr: 1.5}",
                      "run.yaml:1:13: optim.lr: found '1.5', expected a number from 0 to 1");
    assert_text_fails("model: {bias: maybe}",
                      "run.yaml:1:15: model.bias: found 'maybe', expected true or false");
    assert_text_fails("optim: {kind: adam}",
                      "run.yaml:1:15: optim.kind: found 'adam', expected one of adamw, muon, sgd-m");
    assert_text_fails("model: {layers: [1]}",
                      "run.yaml:1:17: model.layers: found a list, expected an integer from 1 to 1000");
    assert_text_fails("name: {a: b}", "run.yaml:1:7: name: found a section, expected a string");
    assert_text_fails("data: {files: [a, [b]]}",
                      "run.yaml:1:19: a list holds plain values, no lists or sections");
    assert_text_fails("data: {files: [a, ~]}",
                      "run.yaml:1:15: data.files: found '~', expected a list of strings");
    assert_text_fails("model: 3", "run.yaml:1:8: model is a section: expected 'key: value' lines below it");
    assert_text_fails("model: [layers]",
                      "run.yaml:1:8: model is a section: expected 'key: value' lines below it");
    assert_text_fails("", "run.yaml: 1 required key is missing: 'model.layers'");
    assert_text_fails("- a\n- b", "run.yaml:1:1: expected 'key: value' lines");
    assert_text_fails("just words", "run.yaml:1:1: expected 'key: value' lines");
    assert_set_fails("tokens=many",
                     "--set tokens=many: tokens: found 'many', expected an integer of at least 1");
}

static void what_yaml_could_do_is_refused(void **state) {
    (void)state;
    assert_text_fails("model:\n  layers: 3\n  layers: 4",
                      "run.yaml:3:3: key 'model.layers' stands twice; the first is at line 2");
    assert_text_fails("model.layers: 3\nmodel: {layers: 4}",
                      "run.yaml:2:9: key 'model.layers' stands twice; the first is at line 1");
    assert_text_fails("model: {layers: 3}\nmodel: {bias: on}",
                      "run.yaml:2:1: section 'model' stands twice; the first is at line 1");
    assert_text_fails("name: &a x",
                      "run.yaml:1:10: anchors and aliases are not read here; write the value out");
    assert_text_fails("data: {files: [*a]}",
                      "run.yaml:1:16: anchors and aliases are not read here; write the value out");
    assert_text_fails("name: !!str x", "run.yaml:1:13: tags are not read here; the key decides the type");
    assert_text_fails("model.layers: 3\n---\nname: x", "run.yaml:2:1: a second document; a run file is one");
    assert_text_fails("name: |\n  block\n   ",
                      "run.yaml:2:1: blocks of text (| and >) are not read here; write a quoted string");
    assert_text_fails("name: >-\n  folded",
                      "run.yaml:2:1: blocks of text (| and >) are not read here; write a quoted string");
    assert_text_fails("? [a]\n: b", "run.yaml:1:3: a key must be a plain name");
    assert_text_fails("name: \"a\\0b\"", "run.yaml:1:7: a zero byte inside a string");
    assert_text_fails("name: a\x01",
                      "run.yaml:1:8: a control character; write it as an escape in double quotes");
    assert_text_fails("name: \xc3\xa9\n\xff: 3", "run.yaml:2:1: not UTF-8");
    assert_text_fails("name: \xed\xa0\x80", "run.yaml:1:7: not UTF-8"); /* a surrogate */
    assert_text_fails("name: \xc0\x80", "run.yaml:1:7: not UTF-8");     /* a long zero */
}

static void broken_yaml_is_placed(void **state) {
    weft_config *c;
    (void)state;
    assert_error(parse("model:\n  layers: 3\n bias: on\n", NULL, 0, &c), WEFT_ERR_CONFIG,
                 "run.yaml:4:3: not YAML: ");
    assert_error(parse("model: {layers: 3", NULL, 0, &c), WEFT_ERR_CONFIG, "not YAML: ");
    assert_error(parse("name: \"a", NULL, 0, &c), WEFT_ERR_CONFIG, "not YAML: ");
    assert_error(parse("@", NULL, 0, &c), WEFT_ERR_CONFIG, "not YAML: ");
}

static void all_missing_keys_are_named_at_once(void **state) {
    static const weft_config_key keys[] = {{"a", WEFT_CONFIG_INT, 0, NULL, 0, 0, NULL, ""},
                                           {"b.c", WEFT_CONFIG_INT, 8, NULL, 0, 0, NULL, ""}};
    int64_t out[2];
    weft_config *c;
    (void)state;
    assert_error(weft_config_load(NULL, NULL, 0, keys, 2, out, &c), WEFT_ERR_CONFIG,
                 "configuration: 2 required keys are missing: 'a', 'b.c'");
}

/* ---- sets ---- */

static void sets_win_in_order(void **state) {
    static const char *const sets[] = {"model.layers=4",          "model.layers=5", "name=a: b # c",
                                       "data.files=[x, \"y z\"]", "data.stop=[]",   "optim.kind=muon"};
    weft_config *c;
    (void)state;
    assert_ok(parse("model:\n  layers: 3\nname: x", sets, 6, &c));
    assert_int_equal(run.layers, 5);
    assert_string_equal(run.name, "a: b # c"); /* literally, unlike in the file */
    assert_int_equal(run.files.n, 2);
    assert_string_equal(run.files.item[1], "y z");
    assert_int_equal(run.stop.n, 0);
    assert_int_equal(run.kind, 1);
    assert_true(weft_config_given(c, "data.stop"));
    weft_config_destroy(c);
    static const char *const quoted[] = {"name=\" a\"", "data.files=one two"}, *const unset[] = {"name="};
    assert_ok(parse("model.layers: 3", quoted, 2, &c));
    assert_string_equal(run.name, " a");
    assert_int_equal(run.files.n, 1);
    assert_string_equal(run.files.item[0], "one two");
    weft_config_destroy(c);
    assert_ok(parse("model.layers: 3\nname: x", unset, 1, &c));
    assert_null(run.name);
    weft_config_destroy(c);
    assert_set_fails("data.files=[a",
                     "--set data.files=[a: not YAML: flow sequence without a closing bracket");
    assert_set_fails("name=\xff", "--set name=\xff: not UTF-8");
}

/* ---- bounds ---- */

static void sizes_are_bounded(void **state) {
    size_t cap = 3 << 20;
    char *text = malloc(cap), *p;
    weft_config *c;
    (void)state;
    assert_non_null(text);
    memset(text, '#', cap);
    assert_error(weft_config_parse("run.yaml", text, cap, NULL, 0, sample_keys, SAMPLE_KEYS, &run, &c),
                 WEFT_ERR_CONFIG, "run.yaml: 3145728 bytes, expected at most 1048576");
    for (int i = 0; i < 60000; i++) text[i] = i % 2 ? ':' : 'a'; /* one long name */
    text[60000] = 0;
    assert_error(parse(text, NULL, 0, &c), WEFT_ERR_CONFIG, "run.yaml:1:1:");
    memset(text, '[', 100000);
    text[100000] = 0;
    memcpy(text, "data.files: ", 12);
    assert_int_equal(parse(text, NULL, 0, &c), WEFT_ERR_CONFIG);
    memset(text, '{', 100000);
    assert_int_equal(parse(text, NULL, 0, &c), WEFT_ERR_CONFIG);
    p = stpcpy(text, "model.layers: 1\ndata.files: [");
    for (int i = 0; i < 4096; i++) p = stpcpy(p, "a,");
    strcpy(p, "]");
    assert_ok(parse(text, NULL, 0, &c));
    assert_int_equal(run.files.n, 4096);
    weft_config_destroy(c);
    strcpy(p, "a]");
    assert_error(parse(text, NULL, 0, &c), WEFT_ERR_CONFIG, "a list of more than 4096 values");
    free(text);
}

static void tables_that_contradict_themselves_are_bugs(void **state) {
    static const weft_config_key twice[] = {{"a", WEFT_CONFIG_INT, 0, "1", 0, 0, NULL, ""},
                                            {"a", WEFT_CONFIG_INT, 0, "1", 0, 0, NULL, ""}};
    static const weft_config_key both[] = {{"a", WEFT_CONFIG_INT, 0, "1", 0, 0, NULL, ""},
                                           {"a.b", WEFT_CONFIG_INT, 8, "1", 0, 0, NULL, ""}};
    static const weft_config_key value[] = {{"a", WEFT_CONFIG_INT, 0, "1", 2, 3, NULL, ""}};
    int64_t out[2];
    weft_config *c;
    (void)state;
    assert_int_equal(weft_config_load(NULL, NULL, 0, twice, 2, out, &c), WEFT_ERR_INTERNAL);
    assert_int_equal(weft_config_load(NULL, NULL, 0, both, 2, out, &c), WEFT_ERR_INTERNAL);
    assert_error(weft_config_load(NULL, NULL, 0, value, 1, out, &c), WEFT_ERR_INTERNAL,
                 "default: a: found '1'");
    assert_ok(weft_config_load(NULL, NULL, 0, both + 1, 1, out, &c)); /* negative control */
    weft_config_destroy(c);
}

/* ---- files, faults, help ---- */

static void files_are_read_and_named(void **state) {
    char *path = weft_path_join(*state, "run.yaml"), want[5000];
    weft_config *c;
    assert_error(weft_config_load(path, NULL, 0, sample_keys, SAMPLE_KEYS, &run, &c), WEFT_ERR_NOTFOUND,
                 path);
    assert_ok(weft_file_write(path, "model:\n  layers: x\n", 19));
    snprintf(want, sizeof want, "%s:2:11: model.layers: found 'x'", path);
    assert_error(weft_config_load(path, NULL, 0, sample_keys, SAMPLE_KEYS, &run, &c), WEFT_ERR_CONFIG, want);
    assert_error(weft_config_load(*state, NULL, 0, sample_keys, SAMPLE_KEYS, &run, &c), WEFT_ERR_CONFIG,
                 "not a regular file");
    assert_ok(weft_file_write(path, "model:\n  layers: 8\n", 19));
    assert_ok(weft_config_load(path, NULL, 0, sample_keys, SAMPLE_KEYS, &run, &c));
    assert_int_equal(run.layers, 8);
    weft_config_destroy(c);
    free(path);
}

static void every_failing_allocation_is_reported(void **state) {
    static const char *const sets[] = {"data.stop=[q, r]"};
    weft_config *c;
    weft_status s = WEFT_ERR_NOMEM;
    long n = 0;
    (void)state;
    while (s != WEFT_OK) {
        weft_fault_arm(WEFT_FAULT_ALLOC, ++n);
        s = parse("model: {layers: 3}\nname: x\ndata: {files: [a, b]}\noptim.kind: muon", sets, 1, &c);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s != WEFT_OK) assert_int_equal(s, WEFT_ERR_NOMEM);
        assert_true((s == WEFT_OK) == (c != NULL));
        assert_true(n < 1000);
    }
    assert_in_range(n, 20, 999); /* defaults, file and sets all allocate */
    weft_config_destroy(c);
}

static void help_names_every_key(void **state) {
    char *h = weft_config_help(sample_keys, SAMPLE_KEYS);
    (void)state;
    assert_non_null(h);
    for (size_t i = 0; i < SAMPLE_KEYS; i++) {
        assert_non_null(strstr(h, sample_keys[i].name));
        assert_non_null(strstr(h, sample_keys[i].doc));
    }
    assert_non_null(strstr(h, "an integer from 1 to 1000; required"));
    assert_non_null(strstr(h, "one of adamw, muon, sgd-m; default adamw"));
    assert_non_null(strstr(h, "a string; default none"));
    free(h);
}

/* ---- mutations ---- */

/* What was read is written and reads back as the same values and the same text. */
static void assert_dump_reads_back(const weft_config *c) {
    sample_run first = run, second;
    weft_config *again;
    const char *text = weft_config_dump(c);
    if (weft_config_parse("dump", text, strlen(text), NULL, 0, sample_keys, SAMPLE_KEYS, &second, &again) !=
        WEFT_OK)
        fail_msg("the dump does not read back: %s\n%s", weft_last_error(), text);
    assert_string_equal(weft_config_dump(again), text);
    assert_true(first.layers == second.layers && first.lr == second.lr && first.offset == second.offset);
    assert_true(!first.name == !second.name && (!first.name || !strcmp(first.name, second.name)));
    assert_int_equal(first.files.n, second.files.n);
    for (size_t i = 0; i < first.files.n; i++) assert_string_equal(first.files.item[i], second.files.item[i]);
    weft_config_destroy(again);
}

static char *put_utf8(char *p, uint32_t u) {
    int more = u < 0x80 ? 0 : u < 0x800 ? 1 : u < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    *p++ = (char)(lead[more] | u >> 6 * more);
    while (more--) *p++ = (char)(0x80 | (u >> 6 * more & 63));
    return p;
}

/* Any characters but zero, half of them from those that YAML cares about, given as escapes. */
static void any_string_survives_the_dump(void **state) {
    static const char marks[] = " :#-?[]{},&*!|>'\"%@`\\\n\t~null\r\x01\x1f\x7f";
    uint64_t seed = test_seed(), k = 0;
    (void)state;
    for (int trial = 0; trial < 3000; trial++) {
        char set[256] = "name=\"", text[100], *p = set + 6, *q = text;
        const char *sets[1] = {set};
        weft_config *c;
        for (uint64_t n = 1 + weft_rng_u64(seed, 5, k++) % 20; n; n--) {
            uint64_t r = weft_rng_u64(seed, 5, k++);
            uint32_t u = r & 1 ? (uint32_t)marks[(r >> 8) % (sizeof marks - 1)]
                               : (uint32_t)((r >> 8) % (r & 2 ? 0x110000 : 0x3000));
            if (u == 0 || (u >= 0xd800 && u < 0xe000)) u = 'x';
            p += sprintf(p, "\\U%08x", u);
            q = put_utf8(q, u);
        }
        *q = 0;
        strcpy(p, "\"");
        assert_ok(parse("model.layers: 1", sets, 1, &c));
        assert_string_equal(run.name, text);
        assert_dump_reads_back(c);
        weft_config_destroy(c);
    }
}

static void mutated_files_never_break_the_reader(void **state) {
    static const char *const seeds[] = {
        "name: \"a \\\"b\\\" \\u00e9\\x01\"\nmodel:\n  layers: 12\n  bias: off\noptim: {lr: 1e-3, kind: "
        "muon}\n"
        "data:\n  files:\n    - one\n    - 'two, three'\n  stop:\n    - \"over\n       two lines\"\ntokens: "
        "3G\n",
        "---\nmodel: {layers: 3}\n# comment\nname: plain\n  over two\n\ndata:\n  files: [a, \"b\", 'c']\n  "
        "stop: |\n...\n",
        "---\nmodel: {layers: 3}\n# comment\nname: plain\n  over two\n\ndata:\n  files: [a, \"b\", "
        "'c']\n...\n",
    };
    uint64_t seed = test_seed(), k = 0;
    int accepted = 0;
    (void)state;
    for (int trial = 0; trial < 6000; trial++) {
        char text[600];
        size_t n = strlen(seeds[trial % 3]);
        memcpy(text, seeds[trial % 3], n);
        for (uint64_t edits = 1 + weft_rng_u64(seed, 6, k++) % 3; edits--;) {
            static const char bytes[] = ":#-?[]{},&*!|>'\"%@\n\t \\~0\xc3\xff";
            size_t at = weft_rng_u64(seed, 6, k++) % n, from = weft_rng_u64(seed, 6, k++) % n;
            size_t len = 1 + weft_rng_u64(seed, 6, k++) % 12;
            switch (weft_rng_u64(seed, 6, k++) % 4) {
            case 0: text[at] = bytes[weft_rng_u64(seed, 6, k++) % (sizeof bytes - 1)]; break;
            case 1: n = at + 1; break;
            case 2:
                if (at + len < n) memmove(text + at, text + at + len, n - at - len), n -= len;
                break;
            default:
                if (from + len < n && at + len < n) memmove(text + at, text + from, len);
            }
        }
        char *exact = malloc(n); /* no byte behind the end for the reader to see */
        weft_config *c;
        assert_non_null(exact);
        memcpy(exact, text, n);
        memset(&run, 0, sizeof run);
        weft_clear_error();
        weft_status s = weft_config_parse("run.yaml", exact, n, NULL, 0, sample_keys, SAMPLE_KEYS, &run, &c);
        free(exact);
        if (s == WEFT_OK) {
            accepted++;
            assert_dump_reads_back(c);
        } else {
            assert_int_equal(s, WEFT_ERR_CONFIG);
            assert_memory_equal(weft_last_error(), "run.yaml:", 9);
            assert_null(strchr(weft_last_error(), '\n'));
        }
        weft_config_destroy(c);
    }
    assert_in_range(accepted, 100, 5900); /* the mutations are neither all harmless nor all fatal */
}

/* Sections with names of the user's choice: their members are listed, the rest is read over. */
static void members_of_a_section(void **state) {
    static const char text[] =
        "name: x\nother: {deep: [1, {a: b}], list: [q]}\n"
        "launch:\n  sites:\n    north: {nodes: 2}\n    \"so uth\":\n      nodes: 1\n  n: 3\nlast:\n";
    static const struct {
        const char *section;
        size_t n;
        const char *name[4];
    } cases[] = {{"", 4, {"name", "other", "launch", "last"}},
                 {"launch.sites", 2, {"north", "so uth"}},
                 {"launch", 2, {"sites", "n"}},
                 {"launch.site", 0, {0}},
                 {"last", 0, {0}},
                 {"name", 0, {0}},
                 {"nowhere.at.all", 0, {0}}};
    char member[4][WEFT_CONFIG_NAME];
    size_t n = 0;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(weft_config_members("run.yaml", text, sizeof text - 1, cases[i].section, member, 4, &n));
        assert_int_equal(n, cases[i].n);
        for (size_t k = 0; k < n; k++) assert_string_equal(member[k], cases[i].name[k]);
    }
    assert_int_equal(weft_config_members("run.yaml", text, sizeof text - 1, "", member, 3, &n),
                     WEFT_ERR_CONFIG);
    assert_string_equal(weft_last_error(), "run.yaml:9:1: more entries than are read here");
    assert_int_equal(weft_config_members("run.yaml", "a: [", 4, "", member, 3, &n), WEFT_ERR_CONFIG);
}

static void what_is_read_elsewhere_is_read_over(void **state) {
    static const weft_config_key keys[] = {{"a", WEFT_CONFIG_INT, 0, "1", 0, 0, NULL, ""},
                                           {"other", WEFT_CONFIG_OTHER, 0, NULL, 0, 0, NULL, "of others"}};
    static const char text[] = "other: {deep: [1, {a: b}], list: [q]}\na: 2\n";
    static const char *const set = "other=3";
    int64_t a = 0;
    weft_config *c;
    (void)state;
    assert_ok(weft_config_parse("run.yaml", text, sizeof text - 1, NULL, 0, keys, 2, &a, &c));
    assert_int_equal(a, 2);
    assert_int_equal(weft_config_line(c, "a"), 2);
    assert_int_equal(weft_config_line(c, "b"), 0);
    assert_string_equal(weft_config_dump(c), "a: 2\n");
    weft_config_destroy(c);
    assert_int_equal(weft_config_parse("run.yaml", text, sizeof text - 1, &set, 1, keys, 2, &a, &c),
                     WEFT_ERR_CONFIG);
    assert_string_equal(weft_last_error(), "--set other=3: 'other' is a section that is not read here");
    char *help = weft_config_help(keys, 2);
    assert_non_null(strstr(help, "a section; read elsewhere"));
    free(help);
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_every_kind),
        cmocka_unit_test(defaults_and_nothing),
        cmocka_unit_test(integers_and_numbers),
        cmocka_unit_test(the_locale_of_the_program_does_not_matter),
        cmocka_unit_test(unknown_names_are_placed_and_guessed),
        cmocka_unit_test(wrong_values_say_found_and_expected),
        cmocka_unit_test(what_yaml_could_do_is_refused),
        cmocka_unit_test(broken_yaml_is_placed),
        cmocka_unit_test(all_missing_keys_are_named_at_once),
        cmocka_unit_test(sets_win_in_order),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(tables_that_contradict_themselves_are_bugs),
        in_scratch(files_are_read_and_named),
        cmocka_unit_test(every_failing_allocation_is_reported),
        cmocka_unit_test(help_names_every_key),
        cmocka_unit_test(any_string_survives_the_dump),
        cmocka_unit_test(mutated_files_never_break_the_reader),
        cmocka_unit_test(members_of_a_section),
        cmocka_unit_test(what_is_read_elsewhere_is_read_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
