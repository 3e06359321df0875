/* weft doctor: looks for what makes runs slow, fragile or impossible, and says how to mend it. */
#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/status.h"
#include "comm/carrier/p2p.h"
#include "kernels/kernels.h"
#include "runtime/cli/cli.h"
#include "runtime/cli/doctor.h"

enum { OPT_JSON = 1000 };

static int on_path(const char *program) {
    const char *path = getenv("PATH");
    char file[4096];
    while (path && *path) {
        size_t n = strcspn(path, ":");
        snprintf(file, sizeof file, "%.*s/%s", (int)n, path, program);
        if (access(file, X_OK) == 0) return 1;
        path += n + (path[n] == ':');
    }
    return 0;
}

static void check_program(finding *f, const char *program, const char *what_for, const char *package,
                          verdict if_missing) {
    f->subject = program;
    int there = on_path(program);
    f->v = there ? GOOD : if_missing;
    snprintf(f->found, sizeof f->found, "%s: %s", there ? "found" : "missing", what_for);
    if (!there) snprintf(f->mend, sizeof f->mend, "apt-get install %s", package);
}

static void check_processor(finding *f) {
    f->subject = "processor";
    weft_backend *b = NULL;
    weft_backend_opts o = {.size = sizeof o};
    weft_backend_desc d;
    if (weft_backend_open("cpu", &o, &b) < 0 || weft_backend_info(b, &d) < 0) {
        f->v = BAD;
        snprintf(f->found, sizeof f->found, "no AVX2 and FMA: only the slow scalar kernels run");
        snprintf(f->mend, sizeof f->mend,
                 "use a processor of 2013 or later, or expect a hundredth of the speed");
    } else {
        f->v = GOOD;
        snprintf(f->found, sizeof f->found, "%s, kernels %s", d.model, d.isa);
    }
    if (b) weft_backend_close(b);
}

/* No GPU is no fault; one that is there and cannot be used is. */
static void check_gpu(finding *f) {
    const int there = access("/proc/driver/nvidia/version", F_OK) == 0;
    weft_backend *b = NULL;
    weft_backend_opts o = {.size = sizeof o};
    weft_backend_desc d;
    f->subject = "GPU";
    f->v = GOOD;
    if (weft_backend_open("cuda", &o, &b) >= 0 && weft_backend_info(b, &d) >= 0)
        snprintf(f->found, sizeof f->found, "%s (%s), %s", d.model, d.isa, d.versions);
    else if (there) {
        f->v = NOTE;
        snprintf(f->found, sizeof f->found, "an NVIDIA driver is loaded, but: %s", weft_last_error());
        snprintf(f->mend, sizeof f->mend, "run.device: cpu computes without it");
    } else
        snprintf(f->found, sizeof f->found, "none: runs compute on the processor");
    if (b) weft_backend_close(b);
    weft_clear_error();
}

static void check_cores(finding *f) {
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int mine = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
    f->subject = "cores";
    f->v = mine == online ? GOOD : NOTE;
    snprintf(f->found, sizeof f->found, "%d of %ld online cores allowed here", mine, online);
    if (mine != online)
        snprintf(
            f->mend, sizeof f->mend,
            "if that is not meant: mpirun --bind-to none or --map-by slot:PE=<threads>, or ask the batch "
            "system for more");
}

static void check_load(finding *f) {
    double load[1] = {0};
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int ok = getloadavg(load, 1) == 1;
    f->subject = "load";
    f->v = ok && load[0] > 0.5 * (double)online ? NOTE : GOOD;
    snprintf(f->found, sizeof f->found, "%.2f on %ld cores", load[0], online);
    if (f->v) snprintf(f->mend, sizeof f->mend, "other programs take cores: timings and MFU will be low");
}

static void check_ucx(finding *f) {
    const int there = strstr(p2p_known(), "ucx") != NULL;
    f->subject = "UCX";
    f->v = there ? GOOD : NOTE;
    snprintf(f->found, sizeof f->found, "%s: another carrier between nodes than MPI (WEFT_CARRIER=ucx)",
             there ? "built in" : "not built in");
    if (!there) snprintf(f->mend, sizeof f->mend, "apt-get install libucx-dev, then build weft again");
}

static void check_shm(finding *f) {
    struct statvfs v;
    f->subject = "/dev/shm";
    if (statvfs("/dev/shm", &v)) {
        f->v = BAD;
        snprintf(f->found, sizeof f->found, "not there: MPI ranks of a node cannot share memory");
        snprintf(f->mend, sizeof f->mend, "mount -t tmpfs tmpfs /dev/shm");
        return;
    }
    double free_mb = (double)v.f_bavail * (double)v.f_frsize / 1e6;
    f->v = free_mb < 64 ? BAD : GOOD;
    snprintf(f->found, sizeof f->found, "%.0f MB free", free_mb);
    if (f->v) snprintf(f->mend, sizeof f->mend, "mount -o remount,size=1G /dev/shm (docker: --shm-size=1g)");
}

static void check_huge_pages(finding *f) {
    char text[128] = "";
    FILE *h = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (h) {
        if (!fgets(text, sizeof text, h)) text[0] = 0;
        fclose(h);
    }
    text[strcspn(text, "\n")] = 0;
    f->subject = "huge pages";
    f->v = strstr(text, "[never]") || !*text ? NOTE : GOOD;
    snprintf(f->found, sizeof f->found, "%s", *text ? text : "unknown");
    if (f->v) snprintf(f->mend, sizeof f->mend, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
}

static void check_writable(finding *f) {
    f->subject = "this directory";
    struct statvfs v;
    int ok = access(".", W_OK) == 0 && statvfs(".", &v) == 0;
    double gb = ok ? (double)v.f_bavail * (double)v.f_frsize / 1e9 : 0;
    f->v = !ok ? BAD : gb < 1 ? NOTE : GOOD;
    snprintf(f->found, sizeof f->found, ok ? "writable, %.1f GB free" : "cannot be written", gb);
    if (f->v) snprintf(f->mend, sizeof f->mend, "set run.dir to a place with room");
}

static const struct argp_option options[] = {{"json", OPT_JSON, 0, 0, "print one JSON object a finding", 0},
                                             {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    (void)arg;
    if (key == OPT_JSON) {
        *(int *)state->input = 1;
        return 0;
    }
    if (key == ARGP_KEY_ARG) argp_error(state, "takes no arguments");
    return ARGP_ERR_UNKNOWN;
}

static const struct argp argp = {
    options,
    parse,
    "",
    "Looks for what makes runs slow, fragile or impossible here, Slurm included, with the command that mends "
    "it. Exit "
    "code 69 if something that is needed is missing, else 0.\vExample:\n  weft doctor",
    0,
    0,
    0};

int cli_doctor(int argc, char **argv) {
    int json = 0, worst = GOOD;
    cli_parse(&argp, argc, argv, &json);
    finding f[48] = {{0}};
    size_t n = 0;
    check_processor(&f[n++]);
    check_gpu(&f[n++]);
    check_cores(&f[n++]);
    check_load(&f[n++]);
    check_huge_pages(&f[n++]);
    check_shm(&f[n++]);
    check_program(&f[n++], "mpirun", "starts several ranks", "openmpi-bin", BAD);
    check_program(&f[n++], "bible", "the text of the demo", "bible-kjv", NOTE);
    check_program(&f[n++], "mpifort", "Fortran programs on weft (module weft), examples/heat",
                  "gfortran libopenmpi-dev", NOTE);
    check_program(&f[n++], "h5dump", "shows token shards", "hdf5-tools", NOTE);
    check_ucx(&f[n++]);
    check_writable(&f[n++]);
    n += doctor_slurm(&f[n], sizeof f / sizeof *f - n);
    static const char *const mark[] = {"ok", "note", "BAD"};
    for (size_t i = 0; i < n; i++) {
        if (f[i].v > (verdict)worst) worst = f[i].v;
        if (json) {
            json_t *j = json_pack("{s:s, s:s, s:s, s:s}", "subject", f[i].subject, "verdict", mark[f[i].v],
                                  "found", f[i].found, "mend", f[i].mend);
            cli_json_print(j);
            continue;
        }
        printf("%-5s %-22s %s\n", mark[f[i].v], f[i].subject, f[i].found);
        if (*f[i].mend) printf("%28s -> %s\n", "", f[i].mend);
    }
    return worst == BAD ? 69 : 0;
}
