/* The checks see what is wrong: in made-up trees of /proc and /sys, in products and writes that a wrapper spoils, against
 * references. Faults of a real machine: faults.sh. */
#include <errno.h>
#include <math.h>
#include <sys/stat.h>
#include <utime.h>

#include "tests/support/scratch.h"

#include "base/rng.h"
#include "runtime/health/health.h"
#include "weft/gemm.h"

/* --- what wrappers spoil ----------------------------------------------------------------------------------------- */

weft_status __real_weft_gemm(weft_gemm_context *x, const weft_gemm_call *g);
weft_status __wrap_weft_gemm(weft_gemm_context *x, const weft_gemm_call *g);
int __real_fsync(int fd);
int __wrap_fsync(int fd);

static int spoil_product;
static int sync_hangs, sync_error, syncs; /* atomics: threads of the checks look at them */

weft_status __wrap_weft_gemm(weft_gemm_context *x, const weft_gemm_call *g) {
    weft_status s = __real_weft_gemm(x, g);
    if (spoil_product) ((float *)g->c)[5 * g->n + 7] += 1;
    return s;
}

int __wrap_fsync(int fd) {
    while (__atomic_load_n(&sync_hangs, __ATOMIC_ACQUIRE)) usleep(1000);
    __atomic_add_fetch(&syncs, 1, __ATOMIC_ACQ_REL);
    const int e = __atomic_load_n(&sync_error, __ATOMIC_ACQUIRE);
    if (!e) return __real_fsync(fd);
    errno = e;
    return -1;
}

/* --- a run on a made-up tree ------------------------------------------------------------------------------------- */

static weft_health_report report;
static weft_health_opts opts;
static health_run run;

static health_run *fresh(const char *root) {
    memset(&report, 0, sizeof report);
    report.size = sizeof report;
    opts = (weft_health_opts){.size = sizeof opts};
    run = (health_run){.o = &opts, .r = &report, .root = root};
    return &run;
}

__attribute__((format(printf, 3, 4))) static void put(const char *root, const char *text, const char *fmt,
                                                      ...) {
    char path[4096], *end;
    va_list args;
    int n = snprintf(path, sizeof path, "%s", root);
    va_start(args, fmt);
    vsnprintf(path + n, sizeof path - (size_t)n, fmt, args);
    va_end(args);
    end = strrchr(path, '/');
    *end = 0;
    assert_ok(weft_mkdirs(path));
    *end = '/';
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fwrite(text, 1, strlen(text), f);
    fclose(f);
}

static const weft_health_finding *find(weft_health_verdict v, const char *text) {
    for (uint32_t i = 0; i < report.n; i++)
        if (report.finding[i].verdict == v && strstr(report.finding[i].text, text)) return &report.finding[i];
    for (uint32_t i = 0; i < report.n; i++)
        print_message("%d %s\n", report.finding[i].verdict, report.finding[i].text);
    fail_msg("no finding of verdict %d like '%s'", v, text);
    return NULL;
}

static const char plenty[] =
    "MemTotal:       1000000 kB\nMemFree:          1 kB\nMemAvailable:    900000 kB\n";

static void memory_of_the_machine(void **state) {
    put(*state, plenty, "/proc/meminfo");
    health_memory(fresh(*state));
    assert_int_equal(report.worst, WEFT_HEALTH_OK);
    put(*state, "MemTotal: 1000000 kB\nMemAvailable: 200000 kB\n", "/proc/meminfo");
    put(*state, "100 40\n", "/proc/17/statm");
    put(*state, "200 50\n", "/proc/18/statm");
    put(*state, "hog\n", "/proc/18/comm");
    health_memory(fresh(*state));
    find(WEFT_HEALTH_DEGRADED, "hog (pid 18)");
    put(*state, "MemTotal: 1000000 kB\nMemAvailable: 99000 kB\n", "/proc/meminfo");
    health_memory(fresh(*state));
    find(WEFT_HEALTH_FAIL, "hog (pid 18)");
}

/* The limit that binds may be that of a group further up; pages of files do not count. */
static void memory_of_control_groups(void **state) {
    put(*state, plenty, "/proc/meminfo");
    put(*state, "0::/job/step\n", "/proc/self/cgroup");
    put(*state, "max\n", "/sys/fs/cgroup/job/step/memory.max");
    put(*state, "5\n", "/sys/fs/cgroup/job/step/memory.current");
    put(*state, "1000000\n", "/sys/fs/cgroup/job/memory.max");
    put(*state, "950000\n", "/sys/fs/cgroup/job/memory.current");
    put(*state, "anon 1\ninactive_file 0\n", "/sys/fs/cgroup/job/memory.stat");
    health_memory(fresh(*state));
    assert_float_equal(find(WEFT_HEALTH_FAIL, "control group")->value, 5, 1e-6);
    put(*state, "anon 1\ninactive_file 850000\n", "/sys/fs/cgroup/job/memory.stat");
    health_memory(fresh(*state));
    assert_int_equal(report.worst, WEFT_HEALTH_OK);
    /* the older generation of groups */
    put(*state, "7:cpu:/x\n4:memory:/old\n", "/proc/self/cgroup");
    put(*state, "1000\n", "/sys/fs/cgroup/memory/old/memory.limit_in_bytes");
    put(*state, "800\n", "/sys/fs/cgroup/memory/old/memory.usage_in_bytes");
    put(*state, "33\n", "/sys/fs/cgroup/memory/old/cgroup.procs");
    put(*state, "9 9\n", "/proc/33/statm");
    put(*state, "inside\n", "/proc/33/comm");
    put(*state, "99 99\n", "/proc/34/statm"); /* larger, but not in the group */
    health_memory(fresh(*state));
    find(WEFT_HEALTH_DEGRADED, "inside (pid 33)");
}

static void errors_that_ecc_counted(void **state) {
    put(*state, plenty, "/proc/meminfo");
    put(*state, "0\n", "/sys/devices/system/edac/mc/mc0/ue_count");
    put(*state, "12\n", "/sys/devices/system/edac/mc/mc0/ce_count");
    put(*state, "0\n", "/sys/devices/system/edac/mc/mc1/ue_count");
    health_memory(fresh(*state));
    assert_int_equal(report.worst, WEFT_HEALTH_OK);
    put(*state, "5000\n", "/sys/devices/system/edac/mc/mc0/ce_count");
    put(*state, "2\n", "/sys/devices/system/edac/mc/mc1/ue_count");
    health_memory(fresh(*state));
    find(WEFT_HEALTH_DEGRADED, "mc0: ECC corrected 5000");
    find(WEFT_HEALTH_FAIL, "mc1: 2 errors");
}

static void write_bytes(const char *root, const char *path, const char *bytes, size_t n) {
    char full[4096];
    snprintf(full, sizeof full, "%s%s", root, path);
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fwrite(bytes, 1, n, f);
    fclose(f);
}

/* Job 41 has a slurmstepd, job 42 has not; of three segments one is mapped and one is new. */
static void leftovers_of_dead_jobs(void **state) {
    static const char of41[] = "A=1\0SLURM_JOB_ID=41\0", of42[] = "SLURM_JOB_ID=42\0B=2\0";
    char old[4096];
    struct utimbuf t = {.actime = time(NULL) - 3600, .modtime = time(NULL) - 3600};
    put(*state, "slurmstepd: [41.batch]", "/proc/5/cmdline");
    put(*state, "", "/proc/6/environ");
    put(*state, "", "/proc/7/environ");
    write_bytes(*state, "/proc/6/environ", of41, sizeof of41);
    write_bytes(*state, "/proc/7/environ", of42, sizeof of42);
    put(*state, "rank\n", "/proc/7/comm");
    put(*state, "7f00 rw-s 0 00:01 5   /dev/shm/weft-c-41-n1\n7f01 r--p 0 00:01 6 /lib/x\n", "/proc/6/maps");
    static const char *const name[] = {"weft-c-41-n1", "vader_segment.n1.0.42", "somebody-else", "weft-new"};
    for (size_t i = 0; i < 4; i++) {
        put(*state, "data", "/dev/shm/%s", name[i]);
        snprintf(old, sizeof old, "%s/dev/shm/%s", (char *)*state, name[i]);
        if (i < 3) utime(old, &t);
    }
    health_leftovers(fresh(*state));
    assert_int_equal(report.n, 2);
    assert_int_equal(find(WEFT_HEALTH_DEGRADED, "job 42")->value, 1);
    find(WEFT_HEALTH_DEGRADED, "rank (pid 7)");
    assert_int_equal(find(WEFT_HEALTH_DEGRADED, "vader_segment.n1.0.42")->value, 1);
    /* with its step, the job is alive */
    put(*state, "slurmstepd: [42.0]", "/proc/8/cmdline");
    put(*state, "7f00 rw-s 0 00:01 5   /dev/shm/vader_segment.n1.0.42\n", "/proc/7/maps");
    health_leftovers(fresh(*state));
    find(WEFT_HEALTH_OK, "no leftovers");
}

static void ports_of_infiniband(void **state) {
    put(*state, "4: ACTIVE\n", "/sys/class/infiniband/mlx5_0/ports/1/state");
    put(*state, "5: LinkUp\n", "/sys/class/infiniband/mlx5_0/ports/1/phys_state");
    put(*state, "400 Gb/sec (4X NDR)\n", "/sys/class/infiniband/mlx5_0/ports/1/rate");
    put(*state, "1: DOWN\n", "/sys/class/infiniband/mlx5_1/ports/1/state");
    put(*state, "2: Polling\n", "/sys/class/infiniband/mlx5_1/ports/1/phys_state");
    put(*state, "2: INIT\n", "/sys/class/infiniband/mlx5_2/ports/1/state");
    put(*state, "5: LinkUp\n", "/sys/class/infiniband/mlx5_2/ports/1/phys_state");
    health_nic(fresh(*state));
    assert_float_equal(find(WEFT_HEALTH_OK, "mlx5_0/1 is active")->value, 400000, 1e-3);
    find(WEFT_HEALTH_FAIL, "mlx5_2/1 is INIT");
    for (uint32_t i = 0; i < report.n; i++)
        assert_null(strstr(report.finding[i].text, "mlx5_1")); /* no cable */
    static const char *const wanted[] = {"mlx5_1/1", "nosuch0"};
    fresh(*state);
    opts.nic = wanted;
    opts.nics = 2;
    health_nic(&run);
    find(WEFT_HEALTH_FAIL, "mlx5_1/1 is DOWN");
    find(WEFT_HEALTH_FAIL, "nosuch0 is not there");
}

/* --- products ---------------------------------------------------------------------------------------------------- */

static void one_wrong_number_is_found(void **state) {
    (void)state;
    enum { N = 48 };
    static float a[N * N], b[N * N], c[N * N];
    const uint64_t seed = test_seed();
    for (int i = 0; i < N * N; i++) {
        a[i] = (float)((int)(weft_rng_u64(seed, 1, (uint64_t)i) % 17) - 8);
        b[i] = (float)((int)(weft_rng_u64(seed, 2, (uint64_t)i) % 17) - 8);
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            c[i * N + j] = 0;
            for (int k = 0; k < N; k++) c[i * N + j] += a[i * N + k] * b[k * N + j];
        }
    assert_int_equal(health_wrong_rows(a, b, c, N, seed), 0);
    int missed = 0;
    for (int t = 0; t < 2000;
         t++) { /* a flipped bit of one number, any bit: all but the sign of a zero are wrong */
        const int at = (int)(weft_rng_u64(seed, 3, (uint64_t)t) % (N * N));
        const float was = c[at];
        uint32_t bits;
        memcpy(&bits, &c[at], sizeof bits);
        bits ^= 1u << (weft_rng_u64(seed, 4, (uint64_t)t) % 32);
        memcpy(&c[at], &bits, sizeof bits);
        if (c[at] != was) missed += health_wrong_rows(a, b, c, N, seed + (uint64_t)t) != 1;
        c[at] = was;
    }
    assert_true(missed <= 10); /* each with probability below 1 in 1000 */
}

static void a_core_that_computes_wrong_fails(void **state) {
    (void)state;
    weft_health_opts o = {.size = sizeof o, .checks = WEFT_CHECK_CORES};
    report.size = sizeof report;
    assert_ok(weft_health_run(&o, &report));
    for (uint32_t i = 0; i < report.n; i++) assert_null(strstr(report.finding[i].text, "WRONG"));
    spoil_product = 1;
    assert_ok(weft_health_run(&o, &report));
    spoil_product = 0;
    assert_int_equal(report.worst, WEFT_HEALTH_FAIL);
    find(WEFT_HEALTH_FAIL, "WRONG");
}

/* --- folders ------------------------------------------------------------------------------------------------------- */

static double patience; /* 0: as it is */

static void run_in(const char *dir, uint32_t checks) {
    const char *const dirs[] = {dir};
    weft_health_opts o = {.size = sizeof o, .checks = checks, .dir = dirs, .dirs = 1, .patience_s = patience};
    report.size = sizeof report;
    assert_ok(weft_health_run(&o, &report));
}

/* The same until it says `text`: on a machine under load even a sound folder may be late. */
static void run_until(const char *dir, uint32_t checks, const char *text) {
    for (int turn = 0; turn < 100; turn++) {
        run_in(dir, checks);
        for (uint32_t i = 0; i < report.n; i++)
            if (strstr(report.finding[i].text, text)) return;
        usleep(100000);
    }
    fail_msg("never '%s', but '%s'", text, report.n ? report.finding[report.n - 1].text : "");
}

static void a_server_that_hangs_is_said(void **state) {
    __atomic_store_n(&sync_hangs, 1, __ATOMIC_RELEASE);
    patience = 1;
    run_in(*state, WEFT_CHECK_DISK); /* returns: it does not wait for the end of the hang */
    patience = 0;
    find(WEFT_HEALTH_FAIL, "does not answer");
    const int before = __atomic_load_n(&syncs, __ATOMIC_ACQUIRE);
    __atomic_store_n(&sync_hangs, 0, __ATOMIC_RELEASE);
    for (int i = 0; i < 60000 && __atomic_load_n(&syncs, __ATOMIC_ACQUIRE) == before; i++) usleep(1000);
    usleep(100000); /* the thread that was left behind removes its file */
}

static void writes_that_fail_are_said(void **state) {
    char missing[4096];
    run_until(*state, WEFT_CHECK_DISK, "can be written"); /* how full the disk is, is not the test's matter */
    __atomic_store_n(&sync_error, ENOSPC, __ATOMIC_RELEASE);
    run_until(*state, WEFT_CHECK_DISK, "disk full");
    assert_int_equal(report.worst, WEFT_HEALTH_FAIL);
    run_until(*state, WEFT_CHECK_WRITE, "disk full");
    assert_int_equal(report.worst, WEFT_HEALTH_FAIL);
    __atomic_store_n(&sync_error, 0, __ATOMIC_RELEASE);
    snprintf(missing, sizeof missing, "%s/missing", (char *)*state);
    run_until(missing, WEFT_CHECK_DISK, "No such file");
    find(WEFT_HEALTH_FAIL, "No such file");
}

/* --- the class of a node ---------------------------------------------------------------------------------------- */

static void read_reference(const char *text) {
    fresh("");
    assert_ok(health_reference_read(text, &run.reference));
}

static void hold(double value, int better) {
    weft_health_finding *f = health_find(&run, WEFT_CHECK_STREAM, WEFT_HEALTH_OK, "", "bandwidth %g", value);
    health_number(f, value, NAN, "GB/s", better);
    health_reference_compare(&run);
}

static const char three[] =
    "{\"findings\":[{\"check\":\"stream\",\"subject\":\"\",\"value\":90,\"better\":1,\"unit\":\"GB/s\"}]}\n"
    "{\"findings\":[{\"check\":\"stream\",\"subject\":\"\",\"value\":100,\"better\":1,\"unit\":\"GB/s\"},"
    "{\"check\":\"nic\",\"subject\":\"eth0\",\"value\":null,\"better\":1,\"unit\":\"\"}]}"
    "{\"findings\":[{\"check\":\"stream\",\"subject\":\"\",\"value\":1e9,\"better\":1,\"unit\":\"GB/s\"}]}\n";

static void a_node_is_held_against_its_class(void **state) {
    (void)state;
    size_t nodes = 0;
    read_reference(three);
    assert_float_equal(health_reference_median(run.reference, WEFT_CHECK_STREAM, "", &nodes), 100, 1e-9);
    assert_int_equal(nodes, 3);
    health_reference_median(run.reference, WEFT_CHECK_NIC, "eth0", &nodes);
    assert_int_equal(nodes, 0); /* it has no number */
    hold(86, 1);
    assert_int_equal(report.worst, WEFT_HEALTH_OK);
    assert_float_equal(report.finding[0].bound, 85, 1e-9);
    hold(84, 1);
    find(WEFT_HEALTH_FAIL, "bandwidth 84; 84 % of the class's median 100 GB/s (3 nodes");
    health_reference_free(run.reference);
    read_reference(three);
    hold(190, -1);
    assert_int_equal(report.worst, WEFT_HEALTH_OK);
    hold(210, -1);
    assert_int_equal(report.worst, WEFT_HEALTH_DEGRADED);
    health_reference_free(run.reference);
}

static void what_is_no_reference_is_refused(void **state) {
    (void)state;
    health_reference *ref = NULL;
    assert_error(health_reference_read("", &ref), WEFT_ERR_FORMAT, "no report");
    assert_error(health_reference_read("{\"findings\":[]} x", &ref), WEFT_ERR_FORMAT, "report 2 is not JSON");
    assert_error(health_reference_read("[1]", &ref), WEFT_ERR_FORMAT, "no list 'findings'");
    const size_t n = strlen(three);
    for (size_t k = 0; k <= n; k++) { /* cut anywhere: read or refused, never more */
        char *cut = strndup(three, k);
        if (health_reference_read(cut, &ref) >= 0) health_reference_free(ref);
        free(cut);
    }
}

/* What a node says of itself is a reference that it meets. */
static void a_report_is_a_reference(void **state) {
    run_until(*state, WEFT_CHECK_MEMORY | WEFT_CHECK_WRITE | WEFT_CHECK_STREAM, "written and synced");
    char *text = weft_health_json(&report);
    assert_non_null(text);
    assert_null(strchr(text, '\n'));
    size_t nodes = 0;
    read_reference(text);
    assert_true(health_reference_median(run.reference, WEFT_CHECK_MEMORY, "installed", &nodes) > 0 &&
                nodes == 1);
    assert_true(health_reference_median(run.reference, WEFT_CHECK_STREAM, "", &nodes) > 0 && nodes == 1);
    assert_true(health_reference_median(run.reference, WEFT_CHECK_WRITE, "another", &nodes) > 0 &&
                nodes == 1);
    health_reference_free(run.reference);
    const weft_health_opts o = {.size = sizeof o, .checks = WEFT_CHECK_MEMORY, .reference = text};
    report.size = sizeof report;
    assert_ok(weft_health_run(&o, &report));
    int said = 0;
    for (uint32_t i = 0; i < report.n; i++)
        said |= strstr(report.finding[i].text, "100 % of the class's median") != NULL;
    assert_true(said);
    free(text);
}

static void more_findings_than_places_are_counted(void **state) {
    (void)state;
    fresh("");
    for (int i = 0; i < WEFT_HEALTH_FINDINGS + 5; i++)
        health_number(health_find(&run, WEFT_CHECK_NIC,
                                  i < WEFT_HEALTH_FINDINGS ? WEFT_HEALTH_OK : WEFT_HEALTH_FAIL, "x", "%0*d",
                                  400, i),
                      i, NAN, "a-unit-that-is-long", 1);
    assert_int_equal(report.n, WEFT_HEALTH_FINDINGS);
    assert_int_equal(report.left_out, 5);
    assert_int_equal(report.worst, WEFT_HEALTH_FAIL);
}

static void misuse_is_an_error(void **state) {
    (void)state;
    weft_health_opts o = {.size = sizeof o, .checks = 1u << 30};
    report.size = 3;
    assert_error(weft_health_run(NULL, &report), WEFT_ERR_ARG, "opts.size");
    assert_error(weft_health_run(&o, &report), WEFT_ERR_ARG, "report.size");
    report.size = sizeof report;
    assert_error(weft_health_run(&o, &report), WEFT_ERR_ARG, "unknown checks");
    o = (weft_health_opts){.size = sizeof o, .reference = "nonsense"};
    assert_error(weft_health_run(&o, &report), WEFT_ERR_FORMAT, "the reference");
    for (uint32_t bit = 1; bit < WEFT_CHECK_FULL; bit <<= 1)
        assert_int_equal(weft_health_check_of(weft_health_check_name(bit)), bit);
    assert_null(weft_health_check_name(3));
    assert_int_equal(weft_health_check_of("nothing"), 0);
}

int main(void) {
#define IN_SCRATCH(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_remove)
    const struct CMUnitTest tests[] = {IN_SCRATCH(memory_of_the_machine),
                                       IN_SCRATCH(memory_of_control_groups),
                                       IN_SCRATCH(errors_that_ecc_counted),
                                       IN_SCRATCH(leftovers_of_dead_jobs),
                                       IN_SCRATCH(ports_of_infiniband),
                                       cmocka_unit_test(one_wrong_number_is_found),
                                       cmocka_unit_test(a_core_that_computes_wrong_fails),
                                       IN_SCRATCH(a_server_that_hangs_is_said),
                                       IN_SCRATCH(writes_that_fail_are_said),
                                       cmocka_unit_test(a_node_is_held_against_its_class),
                                       cmocka_unit_test(what_is_no_reference_is_refused),
                                       IN_SCRATCH(a_report_is_a_reference),
                                       cmocka_unit_test(more_findings_than_places_are_counted),
                                       cmocka_unit_test(misuse_is_an_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
