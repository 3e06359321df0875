/* report.html: well-formed whatever the run left behind, nothing of the run becomes markup, no network,
 * bounded in size, and the pictures show what was recorded. */
#include <ctype.h>
#include <math.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/rng.h"
#include "io/metrics/metrics.h"
#include "io/report/report.h"
#include "tests/io/report/malformed.h"
#include "tests/support/scratch.h"

/* ---- a strict reader of the page ---- */

static char *page; /* of the last report */
static size_t page_bytes;

static void write_file(const char *dir, const char *name, const char *text) {
    char *path = weft_path_join(dir, name);
    assert_ok(weft_file_write(path, text, strlen(text)));
    free(path);
}

static void assert_report(const char *dir) {
    char where[64], *out = weft_path_join(dir, "report.html");
    free(page);
    page = NULL;
    assert_ok(weft_report_write(dir, out));
    assert_ok(weft_file_read(out, 8 << 20, &page, &page_bytes));
    free(out);
    const char *what = malformed(page, where, sizeof where);
    if (what) fail_msg("%s at: %s", what, where);
    assert_int_equal(strlen(page), page_bytes);
    static const char *const never[] = {"<script", "javascript:", "http:", "https:", "url(",
                                        "@import", "<link",       "<img",  "nan",    "inf,"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (strstr(page, never[i])) fail_msg("the page contains %s", never[i]);
}

static void assert_page(const char *want) {
    if (!strstr(page, want)) fail_msg("the page does not contain: %s", want);
}

static void assert_page_lacks(const char *text) {
    if (strstr(page, text)) fail_msg("the page contains: %s", text);
}

static int count(const char *text) {
    int n = 0;
    for (const char *p = page; (p = strstr(p, text)); p++) n++;
    return n;
}

static void the_strict_reader_sees_mistakes(void **state) {
    static const char *const bad[] = {"<html>",
                                      "<html><b></html>",
                                      "<html>&</html>",
                                      "<html>a>b</html>",
                                      "<html a=b></html>",
                                      "<html></html><html></html>",
                                      "<html a=\"<\"></html>",
                                      "<html>< </html>",
                                      "x<html></html>"};
    char text[100], where[64];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, "<!DOCTYPE html>\n%s", bad[i]);
        if (!malformed(text, where, sizeof where)) fail_msg("not seen: %s", bad[i]);
    }
    assert_null(malformed("<!DOCTYPE html>\n<html a=\"b\"><br/>&#60;</html>\n", where, sizeof where));
}

/* ---- runs ---- */

/* A run of `records` steps with everything that the trainer records. */
static void write_run(const char *dir, int records, int other_metrics) {
    char *path = weft_path_join(dir, "metrics.jsonl");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "{\"v\":1,\"t\":1000,\"ev\":\"start\",\"ranks\":4}\n");
    for (int i = 1; i <= records; i++) {
        double progress = (double)i / records, noise = weft_rng_normal(1, 1, (uint64_t)i);
        fprintf(f, "{\"v\":1,\"t\":%.3f,\"site\":\"s\",\"step\":%d,\"g\":%d,\"tokens\":%d,\"k\":{",
                1000 + 2.0 * i, i, 32 * i, 16384 * i);
        fprintf(f, "\"loss/train\":%.9g,\"tokens_per_s\":%.9g,\"mfu\":0.4,\"grad_norm\":%.9g,\"lr\":%.9g",
                2 + 8 * exp(-30 * progress) + .05 * noise, 8000 + 100 * noise,
                exp(3 - 4 * progress + .2 * noise), 6e-4 * (1 - progress) + 1e-6);
        fprintf(f, ",\"time/data\":0.01,\"time/forward\":0.5,\"time/backward\":1.1,\"time/comm\":0.2,\"time/"
                   "optim\":0.05,\"time/other\":0.02");
        for (int k = 0; k < other_metrics; k++)
            fprintf(f, ",\"other/m%d\":%.9g", k, weft_rng_normal(2, (uint64_t)k, (uint64_t)i));
        if (i % (records / 20 + 1) == 0)
            fprintf(f, ",\"loss/valid\":%.9g,\"bpb/valid\":%.9g", 2.1 + 8 * exp(-30 * progress),
                    1.2 + 4 * exp(-30 * progress));
        fprintf(f, "}}\n");
        if (i % (records / 10 + 1) == 0)
            fprintf(f, "{\"v\":1,\"t\":%.3f,\"ev\":\"checkpoint\",\"step\":%d}\n", 1000 + 2.0 * i, i);
    }
    assert_int_equal(fclose(f), 0);
    free(path);
}

static const char run_json[] =
    "{\"title\":\"A <b>run</b> & more\",\"command\":\"weft train x.yaml --set "
    "a=\\\"b\\\"\",\"started\":\"today\","
    "\"tables\":[{\"name\":\"Model <1>\",\"rows\":[[\"parameters\",\"12.3 "
    "M\"],[\"layers\",8],[\"tied\",true],[\"x\",0.25,null,\"<i>\"]]},"
    "{\"name\":\"empty\",\"rows\":[]},{\"rows\":[[\"no name\"]]},17],"
    "\"lines\":{\"gzip -9\":2.459,\"xz -9e\":1.859,\"bad\":\"no\"},"
    "\"samples\":[\"</pre><script>alert(1)</script> \\u0000 \\u001b[31m\",7,\"second\"]}";

static void a_whole_run_is_shown(void **state) {
    write_run(*state, 2000, 3);
    write_file(*state, "run.json", run_json);
    write_file(*state, "config.yaml", "model:\n  name: \"<b>\"\n# \xff not UTF-8\n");
    assert_report(*state);
    static const char *const titles[] = {"Loss", "Bits per byte", "Throughput",    "Step time",
                                         "MFU",  "Gradient norm", "Learning rate", "Events"};
    for (size_t i = 0; i < 8; i++) {
        char want[64];
        snprintf(want, sizeof want, "<figcaption><b>%s</b>", titles[i]);
        assert_page(want);
    }
    assert_page("<title>A &#60;b&#62;run&#60;/b&#62; &#38; more</title>");
    assert_page("weft train x.yaml --set a=&#34;b&#34;");
    assert_page("&#60;/pre&#62;&#60;script&#62;alert(1)&#60;/script&#62; \xef\xbf\xbd \xef\xbf\xbd[31m");
    assert_page("gzip -9 <b>2.459</b>");
    assert_page("xz -9e <b>1.859</b>");
    assert_page_lacks("<b>bad");
    assert_page("less than xz -9e");
    assert_page("Model &#60;1&#62;");
    assert_page("<th>layers</th><td class=\"n\">8</td>");
    assert_page("name: &#34;&#60;b&#62;&#34;\n# \xef\xbf\xbd not UTF-8");
    assert_page("other/m2");
    assert_page("median 40.0");
    assert_page("in 2000 steps");
    assert_int_equal(count("class=\"layer "), 6);
    assert_int_equal(count("class=\"ref\""), 2);
    assert_page_lacks("the run recorded no");
    assert_page("prefers-color-scheme:dark");
}

static void saves_stalls_and_lanes_are_shown(void **state) {
    static const char text[] =
        "{\"v\":1,\"t\":1000,\"ev\":\"start\"}\n"
        "{\"v\":1,\"t\":1010,\"site\":\"s\",\"step\":5,\"g\":5,\"tokens\":50,\"k\":{\"loss/"
        "train\":3,\"lane_ops/bulk\":7,"
        "\"lane_p99/bulk\":0.02}}\n"
        "{\"v\":1,\"t\":1020,\"ev\":\"checkpoint\",\"step\":5,\"seconds\":2,\"exposed\":0.5,\"bytes\":4e9,"
        "\"mode\":\"<async>\"}\n"
        "{\"v\":1,\"t\":1040,\"ev\":\"checkpoint_failed\",\"step\":6,\"seconds\":3,\"failed\":\"ERR_<SPACE>"
        "\"}\n"
        "{\"v\":1,\"t\":1050,\"ev\":\"checkpoint\"}\n"
        "{\"v\":1,\"t\":1060,\"ev\":\"checkpoint\",\"step\":\"x\",\"seconds\":-1e300,\"bytes\":[]}\n"
        "{\"v\":1,\"t\":1070,\"ev\":\"verify\",\"step\":5,\"state\":\"verified & good\"}\n"
        "{\"v\":1,\"t\":1080,\"ev\":\"rollback\",\"step\":99}\n"
        "{\"v\":1,\"t\":1090,\"ev\":\"stall\",\"seconds\":12.5,\"text\":\"rank 1 <slow>\"}\n"
        "{\"v\":1,\"t\":1100,\"ev\":\"stall\"}\n";
    write_file(*state, "metrics.jsonl", text);
    assert_report(*state);
    assert_page("<figcaption><b>Checkpoints</b>");
    assert_page("3 saved, 1 failed");
    assert_page("class=\"failed\" d=\"M");
    assert_page("<td class=\"bad\">failed: ERR_&#60;SPACE&#62;</td>");
    assert_page("<td>&#60;async&#62;</td><td>verified &#38; good</td>");
    assert_page("<h2>Stalls</h2>");
    assert_page("rank 1 &#60;slow&#62;");
    assert_page("<h2>Lanes of the engine</h2>");
    assert_page("<th>gradients and parameters</th><td class=\"n\">7</td><td class=\"n\"></td><td "
                "class=\"n\"></td><td class=\"n\">20.0");
    assert_page_lacks("Other metrics");
}

/* Rounds by what became of them, and of every site the newest account; what is no account is left out. */
static void sites_are_accounted_for(void **state) {
    static const char text[] =
        "{\"v\":1,\"t\":1000,\"ev\":\"start\"}\n"
        "{\"v\":1,\"t\":1010,\"site\":\"s\",\"step\":5,\"g\":5,\"tokens\":50,\"k\":{\"loss/train\":3,"
        "\"sites/waited\":6}}\n"
        "{\"v\":1,\"t\":1020,\"site\":\"s\",\"step\":6,\"g\":6,\"tokens\":60,\"k\":{\"loss/train\":3,"
        "\"sites/waited\":4}}\n" /* started again: 6 + 4 s of 100 */
        "{\"v\":1,\"t\":1020,\"ev\":\"outer\",\"step\":5,\"fragment\":0,\"mode\":\"merge\",\"seconds\":2}\n"
        "{\"v\":1,\"t\":1030,\"ev\":\"outer\",\"step\":6,\"fragment\":0,\"mode\":\"rebase\",\"seconds\":-5}\n"
        "{\"v\":1,\"t\":1040,\"ev\":\"outer\"}\n"
        "{\"v\":1,\"t\":1050,\"ev\":\"site\",\"site\":\"<b>\",\"active\":true,\"joins\":1,\"leaves\":0,"
        "\"presence\":0.5,\"rounds\":7,\"tokens\":1,\"steps\":1,\"bytes\":1,\"loss\":null}\n"
        "{\"v\":1,\"t\":1060,\"ev\":\"site\",\"site\":\"<b>\",\"active\":false,\"joins\":3,\"leaves\":3,"
        "\"presence\":0.25,\"rounds\":8,\"tokens\":300,\"steps\":30,\"bytes\":4000,\"loss\":2.5}\n"
        "{\"v\":1,\"t\":1070,\"ev\":\"site\",\"site\":\"a\",\"active\":true,\"tokens\":100,\"joins\":\"x\"}\n"
        "{\"v\":1,\"t\":1100,\"ev\":\"site\"}\n";
    write_file(*state, "metrics.jsonl", text);
    assert_report(*state);
    assert_page("<figcaption><b>Rounds with other sites</b>");
    assert_page("1 merged, 1 without this site, 0 replaced");
    assert_page("utilisation 90");
    assert_int_equal(count("<th>&#60;b&#62;</th>"), 1);
    assert_page("<th>&#60;b&#62;</th><td>away</td><td class=\"n\">3</td><td class=\"n\">3</td>");
    assert_page("<th>a</th><td>active</td><td class=\"n\"></td>");
    assert_page("<td class=\"n\">300</td><td class=\"n\">75");
    write_file(*state, "metrics.jsonl", "{\"v\":1,\"t\":5,\"ev\":\"start\"}\n");
    assert_report(*state);
    assert_page_lacks("Rounds with other sites"); /* a run of one site says nothing about it */
}

static void what_is_missing_is_said(void **state) {
    write_file(*state, "metrics.jsonl",
               "{\"v\":1,\"t\":5,\"site\":\"\",\"step\":1,\"g\":1,\"tokens\":0,\"k\":{\"loss/train\":3}}\n");
    assert_report(*state); /* one point, no tokens, no run.json */
    assert_page("<figcaption><b>Loss</b>");
    assert_page("<i class=\"xn\">steps</i>");
    static const char *const lines[] = {"Bits per byte: the run recorded no bpb/valid.",
                                        "Throughput: the run recorded no tokens_per_s.",
                                        "MFU: the run recorded no mfu.",
                                        "Gradient norm: the run recorded no grad_norm.",
                                        "Learning rate: the run recorded no lr.",
                                        "Step time: the run recorded no time/forward",
                                        "Events: the run recorded none."};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) assert_page(lines[i]);
    write_file(*state, "metrics.jsonl", "{\"v\":1,\"t\":5,\"ev\":\"start\"}\n");
    assert_report(*state); /* events only */
    assert_page("Loss: the run recorded no loss/train");
    assert_page("1 events in words");
}

static void broken_inputs_are_told_not_fatal(void **state) {
    char *out = weft_path_join(*state, "report.html"), *config = weft_path_join(*state, "config.yaml");
    assert_error(weft_report_write(*state, out), WEFT_ERR_NOTFOUND, "metrics.jsonl");
    write_file(*state, "metrics.jsonl", "");
    assert_error(weft_report_write(*state, out), WEFT_ERR_NOTFOUND, "holds no records yet");
    write_run(*state, 5, 0);
    write_file(*state, "run.json", "{\"title\": <oops>");
    assert_int_equal(mkdir(config, 0700), 0);
    assert_report(*state);
    assert_page("run.json is not JSON: line 1");
    assert_page("not a regular file");
    static const char *const odd[] = {"{\"started\":1e300}",
                                      "{\"started\":1795334844.7}",
                                      "[]",
                                      "7",
                                      "{\"title\":7,\"tables\":{},\"lines\":[],\"samples\":\"x\"}",
                                      "{\"tables\":[{\"rows\":[7,[],[[]]]}]}",
                                      ""};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        write_file(*state, "run.json", odd[i]);
        assert_report(*state);
    }
    free(out), free(config);
}

static void odd_numbers_draw(void **state) {
    static const char *const values[] = {"0", "-1", "1e300", "-1e300", "5e-324", "1e-9"};
    for (size_t a = 0; a < 6; a++)
        for (size_t b = 0; b < 6; b++) {
            char text[4096];
            size_t n = 0;
            for (int i = 0; i < 4; i++)
                n += (size_t)snprintf(
                    text + n, sizeof text - n,
                    "{\"v\":1,\"t\":%s,\"site\":\"\",\"step\":%d,\"g\":1,\"tokens\":%s,\"k\":{\"loss/"
                    "train\":%s,\"grad_norm\":%s,"
                    "\"mfu\":%s,\"time/data\":%s,\"time/comm\":%s,\"tokens_per_s\":%s,\"z\":%s}}\n",
                    values[(a + 1) % 6], i, i % 2 ? values[b] : "7", values[i % 2 ? a : b],
                    values[i % 2 ? b : a], values[a], values[b], values[a], values[b], values[i % 2 ? a : b]);
            n += (size_t)snprintf(text + n, sizeof text - n, "{\"v\":1,\"t\":%s,\"ev\":\"e\"}\n", values[b]);
            write_file(*state, "metrics.jsonl", text);
            assert_report(*state);
        }
}

static void many_of_everything_is_bounded(void **state) {
    char *path = weft_path_join(*state, "metrics.jsonl"), *run = weft_path_join(*state, "run.json");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 3000; i++)
        fprintf(f, "{\"v\":1,\"t\":%d,\"ev\":\"kind %d\",\"n\":%d}\n", i, i % 40, i);
    for (int i = 0; i < 3; i++) {
        fprintf(f,
                "{\"v\":1,\"t\":%d,\"site\":\"\",\"step\":%d,\"g\":1,\"tokens\":%d,\"k\":{\"loss/train\":1",
                i, i, i);
        for (int k = 0; k < 900; k++) fprintf(f, ",\"m%d\":%d", k, k * i);
        fprintf(f, "}}\n");
    }
    fclose(f);
    f = fopen(run, "w");
    assert_non_null(f);
    fprintf(f, "{\"samples\":[");
    for (int i = 0; i < 100; i++) {
        fprintf(f, "%s\"", i ? "," : "");
        for (int k = 0; k < 3000; k++) fputs("\xe2\x82\xac<", f); /* 12 kB of text that grows when escaped */
        fprintf(f, "\"");
    }
    fprintf(f, "],\"tables\":[{\"rows\":[");
    for (int i = 0; i < 2000; i++) fprintf(f, "%s[\"row\",%d]", i ? "," : "", i);
    fprintf(f, "]}],\"lines\":{");
    for (int i = 0; i < 100; i++) fprintf(f, "%s\"l%d\":%d", i ? "," : "", i, i);
    fprintf(f, "}}");
    fclose(f);
    assert_report(*state);
    assert_true(page_bytes < 2 << 20);
    assert_page("others</i>");
    assert_page("The last 200 events in words");
    assert_page("more metrics are in metrics.jsonl");
    assert_page("68 more samples are in run.json");
    assert_page("more bytes are in run.json");
    free(path), free(run);
}

static void a_long_run_stays_small(void **state) {
    write_run(*state, 100000, 39);
    write_file(*state, "run.json", run_json);
    double start = weft_now();
    assert_report(*state);
    print_message("100000 steps, 52 metrics: %.2f s, %zu bytes\n", weft_now() - start, page_bytes);
    assert_true(page_bytes < 2 << 20);
}

static void failures_leave_the_old_report(void **state) {
    char *out = weft_path_join(*state, "report.html"), *text;
    size_t n;
    write_run(*state, 20, 2);
    write_file(*state, "run.json", run_json);
    assert_ok(weft_file_write(out, "old", 3));
    static const weft_fault_site sites[] = {WEFT_FAULT_WRITE, WEFT_FAULT_SYNC, WEFT_FAULT_RENAME,
                                            WEFT_FAULT_READ};
    for (size_t i = 0; i < 4; i++) {
        weft_fault_arm(sites[i], 1);
        assert_true(weft_report_write(*state, out) < 0);
        weft_fault_arm(sites[i], 0);
        assert_ok(weft_file_read(out, 100, &text, &n));
        assert_string_equal(text, "old");
        free(text);
    }
    weft_status s = WEFT_ERR_NOMEM;
    long k = 0;
    while (s != WEFT_OK) {
        weft_fault_arm(WEFT_FAULT_ALLOC, ++k);
        s = weft_report_write(*state, out);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        assert_true(s == WEFT_OK || s == WEFT_ERR_NOMEM);
        if (s != WEFT_OK) {
            assert_ok(weft_file_read(out, 100, &text, &n));
            free(text);
        }
        assert_true(k < 2000);
    }
    assert_true(k > 50);
    free(out);
}

static int drop_page(void **state) {
    (void)state;
    free(page);
    page = NULL;
    return 0;
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_strict_reader_sees_mistakes),
        in_scratch(a_whole_run_is_shown),
        in_scratch(sites_are_accounted_for),
        in_scratch(saves_stalls_and_lanes_are_shown),
        in_scratch(what_is_missing_is_said),
        in_scratch(broken_inputs_are_told_not_fatal),
        in_scratch(odd_numbers_draw),
        in_scratch(many_of_everything_is_bounded),
        in_scratch(failures_leave_the_old_report),
    };
    const struct CMUnitTest slow[] = {in_scratch(a_long_run_stays_small)};
    if (argc > 1 && !strcmp(argv[1], "long")) return cmocka_run_group_tests(slow, NULL, drop_page);
    return cmocka_run_group_tests(tests, NULL, drop_page);
}
