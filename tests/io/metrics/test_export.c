/* What monitoring systems get: text that follows the format to the letter whatever the names, the same values as
 * metrics.jsonl, over HTTP and in the textfile; and errors that are told at start-up. */
#include <arpa/inet.h>
#include <ctype.h>
#include <locale.h>
#include <math.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fault.h"
#include "io/metrics/export.h"
#include "io/metrics/families.h"
#include "io/metrics/metrics.h"
#include "io/metrics/openmetrics.h"
#include "tests/support/scratch.h"

/* ---- a strict reader of the format, from its specification ---- */

enum { FAMILIES = 512, SERIES = 20000 };

static struct {
    char family[FAMILIES][128], type[16], unit[64], current[128];
    int nfamilies, helped;
    char *series[SERIES]; /* name and labels, to find doubles */
    int nseries;
    int eof;
} seen;

static int is_name(const char *s, size_t n) {
    if (n == 0 || (!isalpha((unsigned char)*s) && *s != '_')) return 0;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && s[i] != '_') return 0;
    return 1;
}

/* "# TYPE name value": each kind once a family and before its samples. */
static const char *metadata(const char *line, om_format format) {
    char word[8], name[128], rest[512] = "";
    if (sscanf(line, "# %7s %127s %511[^\n]", word, name, rest) < 2) return "a comment of no kind";
    if (!strcmp(word, "TYPE")) {
        for (int i = 0; i < seen.nfamilies; i++)
            if (!strcmp(seen.family[i], name)) return "a family twice";
        if (!is_name(name, strlen(name))) return "the name of a family";
        strcpy(seen.family[seen.nfamilies++], name);
        strcpy(seen.current, name);
        snprintf(seen.type, sizeof seen.type, "%.*s", (int)sizeof seen.type - 1, rest);
        seen.unit[0] = 0, seen.helped = 0;
        const char *const known[] = {"gauge", "counter", "info"};
        int ok = 0;
        for (int i = 0; i < (format == OM_CLASSIC ? 2 : 3); i++) ok |= !strcmp(known[i], rest);
        return ok ? NULL : "a type";
    }
    if (strcmp(name, seen.current) != 0) return "metadata of another family";
    if (!strcmp(word, "UNIT")) {
        const size_t n = strlen(name), u = strlen(rest);
        if (format == OM_CLASSIC) return "UNIT in classic text";
        return u + 1 < n && name[n - u - 1] == '_' && !strcmp(name + n - u, rest)
                   ? NULL
                   : "a unit that is no suffix";
    }
    if (strcmp(word, "HELP") != 0 || seen.helped++) return "metadata";
    for (const char *p = rest; *p; p++)
        if (*p == '\\' && !strchr(format == OM_OPENMETRICS ? "\\n\"" : "\\n", *++p))
            return "an escape in HELP";
    return NULL;
}

static const char *labels(const char **at) {
    const char *p = *at + 1;
    while (*p != '}') {
        const size_t key = strcspn(p, "=");
        if (!is_name(p, key) || p[key + 1] != '"') return "a label";
        for (p += key + 2; *p != '"'; p++) {
            if (!*p || *p == '\n') return "an open label value";
            if (*p == '\\' && !strchr("\\n\"", *++p)) return "an escape";
        }
        if (*++p == ',')
            p++;
        else if (*p != '}')
            return "labels without a comma";
    }
    *at = p + 1;
    return NULL;
}

static const char *sample_line(const char *line, om_format format) {
    static const char *const suffix[][2] = {{"counter", "_total"}, {"info", "_info"}, {"gauge", ""}};
    char want[160] = "";
    const char *p = line + strcspn(line, "{ ");
    for (int i = 0; i < 3; i++)
        if (!strcmp(seen.type, suffix[i][0]))
            snprintf(want, sizeof want, "%s%s", seen.current, format == OM_CLASSIC ? "" : suffix[i][1]);
    if (strlen(want) != (size_t)(p - line) || memcmp(want, line, strlen(want)) != 0)
        return "a sample outside its family";
    if (*p == '{') {
        const char *wrong = labels(&p);
        if (wrong) return wrong;
    }
    if (*p != ' ') return "no space before the value";
    char *end;
    const size_t identity = (size_t)(p - line);
    const double v = strtod(p + 1, &end);
    if (end == p + 1 || *end != '\n') return "a value";
    if (!strcmp(seen.type, "counter") && !(v >= 0)) return "a negative counter";
    for (int i = 0; i < seen.nseries && seen.nseries < 1000; i++)
        if (strlen(seen.series[i]) == identity && !memcmp(seen.series[i], line, identity))
            return "a series twice";
    seen.series[seen.nseries++] = strndup(line, identity);
    return NULL;
}

/* NULL if the text is valid, else what is wrong; *where points to it. */
static const char *invalid(const char *text, size_t n, om_format format, const char **where) {
    const char *wrong = NULL, *p = text;
    for (int i = 0; i < seen.nseries; i++) free(seen.series[i]);
    memset(&seen, 0, sizeof seen);
    if (n == 0 || text[n - 1] != '\n' || memchr(text, 0, n)) return "no line at the end";
    while (p < text + n && !wrong) {
        *where = p;
        if (seen.eof) return "text behind the end";
        if (!strncmp(p, "# EOF\n", 6))
            seen.eof = 1;
        else
            wrong = *p == '#' ? metadata(p, format) : sample_line(p, format);
        p = strchr(p, '\n') + 1;
    }
    if (!wrong && seen.eof != (format == OM_OPENMETRICS)) wrong = "the end mark";
    return wrong;
}

static void assert_valid(const char *text, size_t n, om_format format) {
    const char *where = text, *wrong = invalid(text, n, format, &where);
    if (wrong) fail_msg("%s at: %.100s", wrong, where);
}

/* ---- the renderer ---- */

static void names_and_numbers_are_escaped(void **state) {
    char buf[2048];
    om_text o;
    (void)state;
    om_begin(&o, buf, sizeof buf, OM_OPENMETRICS);
    om_family(&o, OM_GAUGE, "weft_a", "seconds", "a \"b\" \\ c\nd");
    om_sample(&o, &(om_label){"k", "x\"y\\z\nw\xc3\xa9"}, 1, 0.25);
    om_sample(&o, (om_label[]){{"a", ""}, {"b", "2"}}, 2, -17);
    om_sample(&o, NULL, 0, NAN);
    om_family(&o, OM_COUNTER, "weft_c", NULL, "");
    om_sample(&o, NULL, 0, 9007199254740991.0);
    assert_ok(om_end(&o));
    buf[o.n] = 0;
    assert_string_equal(buf, "# TYPE weft_a_seconds gauge\n"
                             "# UNIT weft_a_seconds seconds\n"
                             "# HELP weft_a_seconds a \\\"b\\\" \\\\ c\\nd\n"
                             "weft_a_seconds{k=\"x\\\"y\\\\z\\nw\xc3\xa9\"} 0.25\n"
                             "weft_a_seconds{a=\"\",b=\"2\"} -17\n"
                             "weft_a_seconds NaN\n"
                             "# TYPE weft_c counter\n"
                             "# HELP weft_c \n"
                             "weft_c_total 9007199254740991\n"
                             "# EOF\n");
    om_begin(&o, buf, sizeof buf, OM_CLASSIC);
    om_family(&o, OM_COUNTER, "weft_c", "bytes", "a \"b\"");
    om_sample(&o, NULL, 0, INFINITY);
    assert_ok(om_end(&o));
    buf[o.n] = 0;
    assert_string_equal(buf, "# TYPE weft_c_bytes_total counter\n# HELP weft_c_bytes_total a \"b\"\n"
                             "weft_c_bytes_total +Inf\n");
}

static weft_status render_five(char *buf, size_t room, size_t *n) {
    om_text o;
    om_begin(&o, buf, room, OM_OPENMETRICS);
    om_family(&o, OM_GAUGE, "weft_a", NULL, "help");
    for (int i = 0; i < 5; i++) om_sample(&o, &(om_label){"n", &"abcde"[i]}, 1, i + 0.5);
    const weft_status s = om_end(&o);
    *n = o.n;
    return s;
}

/* However little room there is: whole lines, the end mark, an error, nothing behind the buffer. */
static void a_small_buffer_ends_between_lines(void **state) {
    char whole[1024];
    size_t all, n;
    (void)state;
    assert_ok(render_five(whole, sizeof whole, &all));
    for (size_t room = 0; room < all + 3; room++) {
        char *buf = malloc(room + 1);
        const char *where;
        assert_non_null(buf);
        buf[room] = 'x';
        assert_int_equal(render_five(buf, room, &n), room >= all ? WEFT_OK : WEFT_ERR_SPACE);
        assert_true(n <= room && buf[room] == 'x');
        buf[n] = 0;
        if (n && invalid(buf, n, OM_OPENMETRICS, &where)) fail_msg("room %zu: %s", room, buf);
        free(buf);
    }
}

static void ten_thousand_series_take_milliseconds(void **state) {
    enum { N = 10000, ROUNDS = 7, BYTES = 4 << 20 };
    static char buf[BYTES], value[N][16];
    om_text o = {0};
    double best = 1;
    (void)state;
    for (int i = 0; i < N; i++) snprintf(value[i], sizeof value[i], "%d", i);
    weft_fault_arm(WEFT_FAULT_ALLOC, 1); /* an allocation would fail */
    for (int r = 0; r < ROUNDS; r++) {
        const clock_t t = clock(); /* of the processor: others may want it, too */
        om_begin(&o, buf, sizeof buf, OM_OPENMETRICS);
        om_family(&o, OM_GAUGE, "weft_many", NULL, "Many.");
        for (int i = 0; i < N; i++)
            om_sample(&o, (om_label[]){{"lane", "bulk"}, {"rank", value[i]}}, 2, i * 0.37 + r);
        assert_ok(om_end(&o));
        const double took = (double)(clock() - t) / CLOCKS_PER_SEC;
        if (took < best) best = took;
    }
    weft_fault_arm(WEFT_FAULT_ALLOC, 0);
    assert_valid(buf, o.n, OM_OPENMETRICS);
    print_message("10000 series, %zu bytes: %.2f ms\n", o.n, best * 1e3);
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    assert_true(best < 1);
#else
    assert_true(best < 0.05); /* ten times the target: slow machines */
#endif
}

static void registered_names_become_families(void **state) {
    static family_map f;
    static char buf[1 << 16];
    om_text o;
    (void)state;
    static const struct {
        const char *name, *unit;
        int kind;
    } names[] = {{"time/forward", "s", 0},
                 {"fam.x", "", 0},
                 {"time/back.ward", "s", 0},
                 {"fam:x", "", 0},
                 {"fam_x", "", 0},
                 {"time", "", 0},
                 {"cnt/a", "bytes", 1},
                 {"lane_bytes/x", "bytes", 0},
                 {"9", "", 0},
                 {"a/b/c", "", 0},
                 {"/", "", 0},
                 {"unset", "", 0}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        metric_said(weft_metric(names[i].name, names[i].kind, names[i].unit),
                    i == 11 ? (double)NAN : (double)i);
    om_begin(&o, buf, sizeof buf, OM_OPENMETRICS);
    families_render(&f, &o);
    assert_ok(om_end(&o));
    buf[o.n] = 0;
    assert_valid(buf, o.n, OM_OPENMETRICS);
    assert_non_null(strstr(buf, "# UNIT weft_time_seconds seconds\n"));
    assert_non_null(
        strstr(buf, "weft_time_seconds{part=\"forward\"} 0\nweft_time_seconds{part=\"back.ward\"} 2\n"));
    assert_non_null(
        strstr(buf, "weft_fam_x{name=\"fam.x\"} 1\nweft_fam_x{name=\"fam:x\"} 3\nweft_fam_x 4\n"));
    assert_non_null(strstr(buf, "weft_cnt_bytes_total{of=\"a\"} 0\n"));
    assert_non_null(strstr(buf, "weft_lane_bytes{lane=\"x\"} 7\n"));
    assert_non_null(strstr(buf, "weft_a{of=\"b/c\"} 9\n"));
    assert_null(strstr(buf, "unset"));
}

/* ---- over HTTP ---- */

static char reply[1 << 18];

/* Sends `request` as it is and reads until the server closes; the body of the answer. */
static char *ask(int port, const char *request) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    size_t n = 0;
    ssize_t k;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_true(send(fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request));
    while (n < sizeof reply - 1 && (k = recv(fd, reply + n, sizeof reply - 1 - n, 0)) > 0) n += (size_t)k;
    reply[n] = 0;
    close(fd);
    char *body = strstr(reply, "\r\n\r\n");
    assert_non_null(body);
    return body + 4;
}

static char *get(int port, const char *path, const char *headers) {
    char request[1024];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n", path,
             headers);
    return ask(port, request);
}

static weft_export_opts opts(int port, const char *textfile) {
    static const weft_export_part part[] = {{"weights", 1000}, {"gradients", 2000}};
    return (weft_export_opts){.size = sizeof(weft_export_opts),
                              .run = "a \"run\"",
                              .port = port,
                              .textfile = textfile,
                              .part = part,
                              .nparts = 2,
                              .ranks = 3};
}

static weft_metrics *metrics_in(const char *dir) {
    weft_metrics *m;
    const uint32_t loss = weft_metric("loss/train", WEFT_METRIC_GAUGE, "nats");
    assert_ok(weft_metrics_open(dir, "s", 0, &m));
    weft_metric_set(loss, 3.25);
    assert_ok(weft_metrics_emit(m, 12, 384, 196608));
    weft_metric_set(loss, NAN); /* the endpoint shows what the last record said */
    assert_ok(weft_metrics_event(m, "checkpoint", "\"step\":10,\"seconds\":0.5,\"bytes\":4096"));
    assert_ok(weft_metrics_event(m, "checkpoint", "\"step\":12,\"seconds\":0.75,\"exposed\":0.01"));
    assert_ok(weft_metrics_event(m, "odd \"one\"", NULL));
    return m;
}

static void the_endpoint_says_what_was_recorded(void **state) {
    weft_metrics *m = metrics_in(*state);
    const weft_export_opts o = opts(-1, NULL);
    weft_export *e;
    const weft_status s = weft_export_open(&o, m, &e);
    if (s == WEFT_ERR_UNSUPPORTED) {
        weft_metrics_close(m);
        skip();
    }
    assert_ok(s);
    const int port = weft_export_port(e);
    const char *body = get(port, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert_non_null(strstr(reply, "HTTP/1.1 200"));
    assert_non_null(
        strstr(reply, "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert_valid(body, strlen(body), OM_OPENMETRICS);
    static const char *const lines[] = {
        "\nweft_run_step 12\n",
        "\nweft_run_tokens_total 196608\n",
        "\nweft_run_samples_total 384\n",
        "weft_run_info{run=\"a \\\"run\\\"\",",
        "ranks=\"3\"} 1\n",
        "\nweft_loss_nats{data=\"train\"} 3.25\n",
        "\nweft_events_total{event=\"checkpoint\"} 2\n",
        "\nweft_events_total{event=\"odd \\\"one\\\"\"} 1\n",
        "\nweft_checkpoint_duration_seconds 0.75\n",
        "\nweft_checkpoint_exposed_seconds 0.01\n",
        "\nweft_checkpoint_step 12\n",
        "\nweft_memory_planned_bytes{part=\"gradients\"} 2000\n",
        "\nweft_run_running 1\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(body, lines[i])) fail_msg("no '%s' in\n%s", lines[i], body);
    assert_null(strstr(body, "weft_checkpoint_size_bytes")); /* the last one did not say */
    body = get(port, "/metrics", "Accept: text/html,*/*\r\n");
    assert_non_null(strstr(reply, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    assert_valid(body, strlen(body), OM_CLASSIC);
    assert_non_null(strstr(body, "# TYPE weft_run_tokens_total counter\n"));
    body = get(port, "/healthz", "");
    assert_non_null(strstr(body, "{\"status\":\"running\",\"step\":12,\"seconds_since_record\":"));
    assert_ok(weft_metrics_event(m, "end", NULL));
    assert_non_null(strstr(get(port, "/healthz", ""), "\"ended\""));
    weft_export_close(e);
    weft_metrics_close(m);
}

static void other_requests_are_refused(void **state) {
    weft_metrics *m = metrics_in(*state);
    weft_export_opts o = opts(-1, NULL);
    weft_export *e, *second;
    const weft_status s = weft_export_open(&o, m, &e);
    if (s == WEFT_ERR_UNSUPPORTED) {
        weft_metrics_close(m);
        skip();
    }
    assert_ok(s);
    const int port = weft_export_port(e);
    get(port, "/etc/passwd", "");
    assert_non_null(strstr(reply, "HTTP/1.1 404"));
    get(port, "/metrics/../x", "");
    assert_non_null(strstr(reply, "HTTP/1.1 404"));
    ask(port, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    assert_non_null(strstr(reply, "HTTP/1.1 405"));
    assert_non_null(strstr(reply, "Allow: GET, HEAD\r\n"));
    ask(port, "HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_non_null(strstr(reply, "HTTP/1.1 200"));
    o.port = port;
    assert_error(weft_export_open(&o, m, &second), WEFT_ERR_CONFIG, "in use");
    assert_null(second);
    o.port = -1, o.bind = "localhost";
    assert_error(weft_export_open(&o, m, &second), WEFT_ERR_CONFIG, "numeric address");
    o.bind = "203.0.113.1"; /* nobody's here */
    assert_error(weft_export_open(&o, m, &second), WEFT_ERR_CONFIG, "cannot listen");
    weft_export_close(e);
    o.port = port, o.bind = NULL;
    assert_ok(weft_export_open(&o, m, &e)); /* the port is free again at once */
    weft_export_close(e);
    weft_metrics_close(m);
}

/* ---- the textfile ---- */

static void the_textfile_appears_whole_and_tells_the_end(void **state) {
    weft_metrics *m = metrics_in(*state);
    char *path = weft_path_join(*state, "run.prom"), *text = NULL;
    const weft_export_opts o = opts(0, path);
    weft_export *e;
    size_t n;
    setlocale(LC_ALL, "de_DE.UTF-8");
    assert_ok(weft_export_open(&o, m, &e));
    assert_ok(weft_file_read(path, 1 << 20, &text, &n)); /* at once */
    assert_valid(text, n, OM_CLASSIC);
    assert_non_null(strstr(text, "\nweft_loss_nats{data=\"train\"} 3.25\n"));
    free(text);
    assert_ok(weft_metrics_event(m, "end", NULL));
    weft_export_close(e);
    setlocale(LC_ALL, "C");
    assert_ok(weft_file_read(path, 1 << 20, &text, &n));
    assert_non_null(strstr(text, "\nweft_run_running 0\n"));
    free(text);
    free(path);
    weft_metrics_close(m);
}

static void failures_are_told_at_start_up(void **state) {
    weft_metrics *m = metrics_in(*state);
    char *path = weft_path_join(*state, "none/run.prom"), *good = weft_path_join(*state, "run.prom");
    weft_export_opts o = opts(0, path);
    weft_export *e = (weft_export *)1;
    assert_error(weft_export_open(&o, m, &e), WEFT_ERR_ACCESS, "run.prom");
    assert_null(e);
    o.textfile = good;
    weft_fault_arm(WEFT_FAULT_WRITE, 1);
    assert_error(weft_export_open(&o, m, &e), WEFT_ERR_SPACE, "run.prom");
    weft_fault_arm(WEFT_FAULT_WRITE, 0);
    weft_status s = WEFT_ERR_NOMEM;
    for (long n = 1; s != WEFT_OK; n++) {
        assert_true(n < 50);
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        s = weft_export_open(&o, m, &e);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s != WEFT_OK) assert_int_equal(s, WEFT_ERR_NOMEM);
    }
    weft_export_close(e);
    weft_export_close(NULL);
    weft_metrics_close(m);
    free(path);
    free(good);
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_numbers_are_escaped),
        cmocka_unit_test(a_small_buffer_ends_between_lines),
        cmocka_unit_test(ten_thousand_series_take_milliseconds),
        cmocka_unit_test(registered_names_become_families),
        in_scratch(the_endpoint_says_what_was_recorded),
        in_scratch(other_requests_are_refused),
        in_scratch(the_textfile_appears_whole_and_tells_the_end),
        in_scratch(failures_are_told_at_start_up),
    };
    return cmocka_run_group_tests_name("export", tests, NULL, NULL);
}
