/* weft doctor, under Slurm: the pitfalls of docs/slurm-troubleshooting.md as far as they can be seen from a login node
 * or from inside a job. Slurm's own commands are asked once each; every check is a function of their words, of the
 * environment and of this machine. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/cli/doctor.h"
#include "runtime/launch/command.h"
#include "weft/health.h"

#define ASK_MS    10000
#define NODES     4096 /* looked at */
#define FILES_LOW 4096 /* descriptors: a rank has some to every other one, HDF5 and TLS add theirs */

typedef struct slurm {
    finding *f;
    size_t n, cap;
    char *config, *nodes, *types, *ill; /* what the commands said; "" if nothing */
    char path[512];                     /* of slurm.conf; "": none is named */
    int in_job;
} slurm;

__attribute__((format(printf, 5, 6))) static void say(slurm *s, const char *subject, verdict v,
                                                      const char *mend, const char *fmt, ...) {
    if (s->n == s->cap) return;
    finding *f = &s->f[s->n++];
    va_list args;
    f->subject = subject;
    f->v = v;
    va_start(args, fmt);
    vsnprintf(f->found, sizeof f->found, fmt, args);
    va_end(args);
    snprintf(f->mend, sizeof f->mend, "%s", v == GOOD ? "" : mend);
}

/* What a command says, stdout and stderr, in a fresh string; NULL: it could not be run or failed, and *why says so. */
static char *ask(const char *const *argv, char *why, size_t cap) {
    weft_command c = {0};
    const weft_command_opts o = {.timeout_ms = ASK_MS};
    const weft_status s = weft_command_check(&c, argv, &o);
    char *text = NULL;
    if (s >= 0 && (text = calloc(c.out.n + c.err.n + 2, 1)))
        snprintf(text, c.out.n + c.err.n + 2, "%s\n%s", c.out.text, c.err.text);
    else
        snprintf(why, cap, "%s", weft_last_error());
    weft_command_close(&c);
    weft_clear_error();
    return text;
}
#define ASK(why, ...) ask((const char *const[]){__VA_ARGS__, NULL}, why, sizeof why)

/* The value of "Key   = value" of `scontrol show config`, "" if it is not there or "(null)". */
static const char *setting(const slurm *s, const char *key, char *value, size_t cap) {
    const size_t n = strlen(key);
    value[0] = 0;
    for (const char *line = s->config; line && *line;
         line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (strncmp(line, key, n) != 0 || (line[n] != ' ' && line[n] != '=')) continue;
        const char *v = line + n + strspn(line + n, " =");
        snprintf(value, cap, "%.*s", (int)strcspn(v, "\n"), v);
        if (!strcmp(value, "(null)")) value[0] = 0;
        break;
    }
    return value;
}

/* --- is it there, and does it answer ------------------------------------------------------------------------------ */

static int find_program(const char *name, char *file, size_t cap) {
    for (const char *path = getenv("PATH"); path && *path;) {
        const size_t n = strcspn(path, ":");
        snprintf(file, cap, "%.*s/%s", (int)n, path, name);
        if (access(file, X_OK) == 0) return 1;
        path += n + (path[n] == ':');
    }
    return 0;
}

/* 0: nothing more can be asked: Slurm's commands would try again for a minute each. */
static int check_conf(slurm *s) {
    const char *conf = getenv("SLURM_CONF");
    if (!conf || !*conf) {
        if (access("/etc/slurm/slurm.conf", R_OK) == 0)
            snprintf(s->path, sizeof s->path, "/etc/slurm/slurm.conf");
        return 1; /* or a centre without: its commands know whom to ask */
    }
    if (conf[0] != '/') {
        say(s, "Slurm: slurm.conf", BAD,
            "export SLURM_CONF with an absolute path: steps start in other folders",
            "SLURM_CONF is the relative path '%.150s'", conf);
        return access(conf, R_OK) == 0;
    }
    snprintf(s->path, sizeof s->path, "%.*s", (int)sizeof s->path - 1, conf);
    if (access(conf, R_OK) == 0) return 1;
    say(s, "Slurm: slurm.conf", BAD,
        "export SLURM_CONF=/path/to/slurm.conf; until then every command of Slurm tries again for a minute",
        "SLURM_CONF is '%.150s', which cannot be read (%s)", conf, strerror(errno));
    return 0;
}

static int check_controller(slurm *s) {
    char why[400] = "", name[128], version[64];
    s->config = ASK(why, "scontrol", "show", "config");
    if (!s->config && !*s->path && !s->in_job) {
        say(s, "Slurm", NOTE, "export SLURM_CONF=/path/to/slurm.conf, if this machine is part of a cluster",
            "installed, but of no cluster: no SLURM_CONF, no /etc/slurm/slurm.conf, and nobody answers");
        return 0;
    }
    if (!s->config) {
        say(s, "Slurm: controller", BAD,
            "scontrol ping; is munged running here with the cluster's key, is slurmctld up?",
            "does not answer: %.200s", why);
        return 0;
    }
    setting(s, "ClusterName", name, sizeof name);
    setting(s, "SLURM_VERSION", version, sizeof version);
    const int old = atoi(version) < 20;
    say(s, "Slurm: controller", old ? NOTE : GOOD,
        "srun before 20.11 has no --overlap: a run cannot be repaired within its job",
        "cluster %.100s, Slurm %s (weft is tested with 22.05.8)", name, version);
    return 1;
}

static void check_munge(slurm *s) {
    char info[256], type[64];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (s->config && strcmp(setting(s, "AuthType", type, sizeof type), "auth/munge") != 0) return;
    const char *socket_at = s->config ? strstr(setting(s, "AuthInfo", info, sizeof info), "socket=") : NULL;
    socket_at = socket_at ? socket_at + 7 : "/run/munge/munge.socket.2";
    snprintf(a.sun_path, sizeof a.sun_path, "%.*s", (int)strcspn(socket_at, ","), socket_at);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int ok = fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
    say(s, "Slurm: munge", ok ? GOOD : BAD,
        "start munged; all nodes of a cluster share one /etc/munge/munge.key and nearly one time",
        "%s at %.100s%s%s", ok ? "answers" : "no munged", a.sun_path, ok ? "" : ": ",
        ok ? "" : strerror(errno));
    if (fd >= 0) close(fd);
}

/* --- MPI ---------------------------------------------------------------------------------------------------------- */

static void check_pmix(slurm *s) {
    char why[400] = "", fence[64];
    s->types = ASK(why, "srun", "--mpi=list");
    const int there = s->types && strstr(s->types, "pmix") != NULL;
    say(s, "Slurm: PMIx", there ? GOOD : BAD,
        "Slurm's plugin mpi/pmix: without it (with pmi2 or none) Open MPI's ranks each think they are alone",
        "%s",
        there      ? "srun --mpi=pmix is there"
        : s->types ? "srun --mpi=list does not name pmix"
                   : why);
    if (!there || !s->config) return;
    const char *mine = getenv("SLURM_PMIX_FENCE");
    const char *kind = mine && *mine ? mine : setting(s, "PMIxCollFence", fence, sizeof fence);
    const int ring = !strcmp(kind, "ring");
    say(s, "Slurm: PMIx fence", ring ? GOOD : NOTE,
        "export SLURM_PMIX_FENCE=ring (weft supervise does), or PMIxCollFence=ring in mpi.conf", "%s%s",
        *kind ? kind : "mixed (the default)",
        ring ? "" : ": nodes that start late may crash or hang in MPI_Init");
}

/* --- several nodes on one machine ------------------------------------------------------------------------------- */

typedef struct place {
    char host[64], at[128];
} place;

/* The value of KEY= in one line of `scontrol show node -o`. */
static void word_of(const char *line, const char *key, char *value, size_t cap) {
    char find[32];
    snprintf(find, sizeof find, " %s=", key);
    const size_t end = strcspn(line, "\n");
    const char *p = strstr(line, find);
    value[0] = 0;
    if (!p || p >= line + end) return;
    p += strlen(find);
    snprintf(value, cap, "%.*s", (int)strcspn(p, " \n"), p);
}

/* Counts nodes that share a host, and those that share its port, too. */
static void count_places(const slurm *s, int *shared, int *clash) {
    place *p = calloc(NODES, sizeof *p);
    size_t n = 0;
    char addr[80], port[32], plain[32];
    *shared = *clash = 0;
    setting(s, "SlurmdPort", plain, sizeof plain);
    for (const char *line = s->nodes; p && line && *line && n < NODES;
         line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (strncmp(line, "NodeName=", 9) != 0) continue;
        word_of(line, "NodeHostName", p[n].host, sizeof p[n].host);
        word_of(line, "NodeAddr", addr, sizeof addr);
        word_of(line, "Port", port, sizeof port);
        snprintf(p[n].at, sizeof p[n].at, "%s:%s", addr, *port ? port : plain);
        for (size_t i = 0; i < n; i++) {
            if (strcmp(p[i].host, p[n].host) != 0) continue;
            (*shared)++;
            *clash += !strcmp(p[i].at, p[n].at);
            break;
        }
        n++;
    }
    free(p);
}

static void check_places(slurm *s) {
    char why[400] = "", tmp[256], prolog[256];
    int shared, clash;
    s->nodes = ASK(why, "scontrol", "-o", "show", "node");
    if (!s->nodes) return;
    count_places(s, &shared, &clash);
    if (clash)
        say(s, "Slurm: ports", BAD, "give every slurmd of a host a Port= of its own in slurm.conf",
            "%d nodes share host and port with another", clash);
    if (!shared) return;
    setting(s, "TmpFS", tmp, sizeof tmp);
    const int own = strstr(tmp, "%n") != NULL;
    say(s, "Slurm: TmpFS", own ? GOOD : BAD,
        "TmpFS=/path/%n in slurm.conf: PMIx's folders of one host's nodes collide (\"File exists\"), those "
        "of two clusters, too",
        "%.150s, and %d nodes share a host with another", tmp, shared);
    setting(s, "TaskProlog", prolog, sizeof prolog);
    const char *btl = getenv("OMPI_MCA_btl");
    if (!s->in_job && !*prolog && !(btl && !strstr(btl, "vader")))
        say(s, "Slurm: host names", NOTE,
            "start each slurmd in a UTS namespace with its own name, or export OMPI_MCA_btl=tcp,self "
            "(slurm/testbed does)",
            "nodes share a host: Open MPI's shared memory is named after the host and crashes where two "
            "nodes have one name");
}

/* --- inside a job --------------------------------------------------------------------------------------------------- */

static void check_job(slurm *s) {
    char host[64] = "";
    const char *node = getenv("SLURMD_NODENAME"), *cpus = getenv("SLURM_CPUS_PER_TASK"),
               *btl = getenv("OMPI_MCA_btl");
    const char *backing = getenv("OMPI_MCA_btl_vader_backing_directory");
    gethostname(host, sizeof host - 1);
    const size_t n = node ? strlen(node) : 0;
    /* a node whose name is not the host's: harmless unless another one is on this host */
    if (node && strncmp(host, node, n) != 0 && s->nodes) {
        int shared, clash;
        count_places(s, &shared, &clash);
        const int safe = backing || (btl && !strstr(btl, "vader"));
        if (shared)
            say(s, "Slurm: host names", safe ? GOOD : BAD,
                "export OMPI_MCA_btl=tcp,self, or "
                "OMPI_MCA_btl_vader_backing_directory=/dev/shm/weft-$SLURMD_NODENAME-$SLURM_JOB_ID",
                "node %.60s has the host name %.60s, as others on this host: Open MPI's shared memory %s",
                node, host, safe ? "is kept apart" : "will crash");
    }
    if (getenv("SLURM_STEP_ID")) return; /* a task: what srun was to read, it has read */
    if (cpus && !getenv("SRUN_CPUS_PER_TASK"))
        say(s, "Slurm: cores of a task", NOTE,
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK in the batch script (weft launch does)",
            "SLURM_CPUS_PER_TASK is %.20s, but srun from 22.05 on does not read it: each task gets one core",
            cpus);
    if (getenv("SLURM_NTASKS_PER_NODE"))
        say(s, "Slurm: tasks of a node", NOTE,
            "unset SLURM_NTASKS_PER_NODE before a step of another shape (weft supervise does)",
            "SLURM_NTASKS_PER_NODE is set: it bends every srun in this job");
}

/* --- the cluster's settings --------------------------------------------------------------------------------------- */

static void check_settings(slurm *s) {
    char a[512], b[512];
    setting(s, "ProctrackType", a, sizeof a);
    const int hybrid = access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0;
    if (strstr(a, "cgroup") && hybrid)
        say(s, "Slurm: proctrack", BAD,
            "boot the nodes with systemd.unified_cgroup_hierarchy=1, or ProctrackType=proctrack/linuxproc",
            "%.60s on a host with both kinds of control groups (as here): nodes look idle, every launch "
            "fails",
            a);
    setting(s, "Prolog", a, sizeof a);
    setting(s, "SchedulerParameters", b, sizeof b);
    if (*a && !strstr(b, "nohold_on_prolog_fail"))
        say(s, "Slurm: Prolog", NOTE, "SchedulerParameters=nohold_on_prolog_fail",
            "a Prolog that fails drains its node and holds the job for ever");
    setting(s, "PreemptMode", a, sizeof a);
    setting(s, "PreemptParameters", b, sizeof b);
    if (*a && strcmp(a, "OFF") != 0 && !strstr(b, "send_user_signal"))
        say(s, "Slurm: preemption", NOTE,
            "PreemptParameters=send_user_signal, and a GraceTime that a checkpoint fits into",
            "PreemptMode is %.60s without send_user_signal: a job that must make room is not told by USR1",
            a);
}

/* Nodes out of service, with the reasons that weft has to do with. */
static void check_ill_nodes(slurm *s) {
    char why[400] = "";
    static const struct {
        const char *reason, *mend;
    } known[] = {
        {"Low ", "fewer CPUs= or RealMemory= in slurm.conf, or SlurmdParameters=config_overrides; then "
                 "scontrol update NodeName=N State=RESUME"},
        {"Prolog error", "run the Prolog by hand on the node; then scontrol update NodeName=N State=RESUME"},
        {"weft health",
         "weft health on the node says what it is; then scontrol update NodeName=N State=RESUME"},
        {"Not responding", "is slurmd running there? Jobs leave such a node after SlurmdTimeout"}};
    s->ill = ASK(why, "sinfo", "-h", "-R", "-o", "%N: %E");
    for (size_t i = 0; s->ill && i < sizeof known / sizeof *known; i++) {
        const char *at = strstr(s->ill, known[i].reason);
        if (!at) continue;
        while (at > s->ill && at[-1] != '\n') at--;
        say(s, "Slurm: nodes", NOTE, known[i].mend, "out of service: %.*s",
            (int)strcspn(at, "\n") < 180 ? (int)strcspn(at, "\n") : 180, at);
    }
}

/* A `required` plugin that is missing stops srun and slurmd. 1: one is. */
static int check_plugstack(slurm *s) {
    char path[600], *text = NULL;
    size_t n;
    int missing = 0;
    char *slash = strrchr(s->path, '/');
    if (!slash) return 0;
    snprintf(path, sizeof path, "%.*s/plugstack.conf", (int)(slash - s->path), s->path);
    if (weft_file_read(path, 1u << 20, &text, &n) < 0) {
        weft_clear_error();
        return 0;
    }
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char kind[32], plugin[400];
        if (sscanf(line, "%31s %399s", kind, plugin) != 2 || strcmp(kind, "required") != 0 ||
            plugin[0] != '/')
            continue;
        if (access(plugin, R_OK) == 0) continue;
        missing = 1;
        say(s, "Slurm: plugstack", BAD,
            "write `optional` instead of `required` in plugstack.conf, or install the file everywhere",
            "%.120s is required and missing: neither srun nor slurmd will start", plugin);
    }
    free(text);
    return missing;
}

/* --- this machine --------------------------------------------------------------------------------------------------- */

/* A slurmd of this machine that was started with a relative -f. */
static void check_slurmd(slurm *s) {
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[300], text[1024] = "";
        if (!isdigit((unsigned char)e->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%.255s/cmdline", e->d_name);
        const int fd = open(path, O_RDONLY | O_CLOEXEC);
        const ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        if (fd >= 0) close(fd);
        const char *base = strrchr(text, '/') ? strrchr(text, '/') + 1 : text;
        if (n <= 0 || strcmp(base, "slurmd") != 0) continue;
        for (const char *p = text; p < text + n; p += strlen(p) + 1) {
            const char *next = p + strlen(p) + 1;
            if (strcmp(p, "-f") != 0 || next >= text + n || *next == '/') continue;
            say(s, "Slurm: slurmd", BAD, "start slurmd with an absolute path behind -f",
                "process %.20s runs with -f %.100s, which is relative: its steps block for ever", e->d_name,
                next);
        }
    }
    if (d) closedir(d);
}

static void check_limits(slurm *s) {
    struct rlimit files, locked;
    if (getrlimit(RLIMIT_NOFILE, &files) || getrlimit(RLIMIT_MEMLOCK, &locked)) return;
    const int few = files.rlim_cur != RLIM_INFINITY && files.rlim_cur < FILES_LOW;
    const int rdma = access("/sys/class/infiniband", F_OK) == 0 && locked.rlim_cur != RLIM_INFINITY;
    char open_files[32] = "unlimited";
    if (files.rlim_cur != RLIM_INFINITY)
        snprintf(open_files, sizeof open_files, "%llu", (unsigned long long)files.rlim_cur);
    say(s, "Slurm: limits", few || rdma ? NOTE : GOOD,
        rdma ? "LimitMEMLOCK=infinity for slurmd, PropagateResourceLimitsExcept=MEMLOCK"
             : "ulimit -n 65536 before sbatch: Slurm carries the limits of this shell to the job",
        "%s open files%s", open_files,
        rdma ? "; locked memory is limited: InfiniBand will fail or be slow" : "");
}

static void check_leftovers(slurm *s) {
    static weft_health_report r = {.size = sizeof r};
    const weft_health_opts o = {.size = sizeof o, .checks = WEFT_CHECK_LEFTOVERS};
    r.size = sizeof r;
    if (weft_health_run(&o, &r) < 0) return;
    for (uint32_t i = 0; i < r.n && i < 3; i++)
        say(s, "leftovers", r.finding[i].verdict ? NOTE : GOOD,
            "end or remove them once no job of yours runs here", "%.240s", r.finding[i].text);
}

size_t doctor_slurm(finding *f, size_t cap) {
    slurm s = {.f = f, .cap = cap, .in_job = getenv("SLURM_JOB_ID") != NULL};
    char file[4096];
    if (!find_program("srun", file, sizeof file) || !find_program("scontrol", file, sizeof file)) {
        say(&s, "Slurm", s.in_job ? BAD : GOOD,
            "put Slurm's commands on PATH (module load slurm): weft supervise starts steps with srun", "%s",
            s.in_job ? "this is a job of Slurm, but srun and scontrol are not on PATH"
                     : "not here (no srun on PATH): runs start with mpirun");
        if (s.in_job) check_job(&s);
        check_leftovers(&s);
        return s.n;
    }
    if (check_conf(&s) && !check_plugstack(&s)) {
        const int answers = check_controller(&s);
        if (answers || *s.path) check_munge(&s);
        if (answers) {
            check_pmix(&s);
            check_places(&s);
            check_settings(&s);
            check_ill_nodes(&s);
        }
    }
    if (s.in_job) check_job(&s);
    check_slurmd(&s);
    check_limits(&s);
    check_leftovers(&s);
    free(s.config);
    free(s.nodes);
    free(s.types);
    free(s.ill);
    return s.n;
}
