/* Slurm's words; see slurm_text.h. State names are those of squeue(1) of Slurm 22.05 to 24.05; a name that is new is an
 * error, because taking a running job for a dead one would start it twice. */
#include "runtime/launch/slurm_text.h"

#include <ctype.h>
#include <string.h>

int slurm_word_ok(const char *s, int may_be_option) {
    const size_t n = s ? strlen(s) : 0;
    if (!n || n >= SLURM_WORD_MAX || (s[0] == '-' && !may_be_option)) return 0;
    for (size_t i = 0; i < n; i++) {
        const int c = (unsigned char)s[i];
        const int letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && !strchr("_./:=,@%+-", c)) return 0;
    }
    return 1;
}

int slurm_site_ok(const char *s) {
    const size_t n = s ? strlen(s) : 0;
    if (!n || n >= 32 || !strcmp(s, "hub") || s[0] == '-' || s[0] == '_') return 0;
    return slurm_word_ok(s, 0) && !strpbrk(s, "./:=,@%+");
}

/* Up to four numbers with what is between them; returns how many, 0 if it is something else. */
static int numbers(const char *s, int64_t v[4], char mark[4]) {
    int n = 0;
    for (;;) {
        if (n == 4 || !isdigit((unsigned char)*s)) return 0;
        for (v[n] = 0; isdigit((unsigned char)*s); s++) {
            if (v[n] > 100000000) return 0;
            v[n] = v[n] * 10 + (*s - '0');
        }
        mark[n++] = *s;
        if (!*s) return n;
        if (*s != ':' && *s != '-') return 0;
        s++;
    }
}

int64_t slurm_time(const char *s) {
    int64_t v[4] = {0};
    char mark[4] = {0};
    if (!strcmp(s, "UNLIMITED") || !strcmp(s, "INFINITE")) return INT64_MAX;
    const int n = numbers(s, v, mark), days = n > 1 && mark[0] == '-';
    for (int i = 1; i < n; i++)
        if (mark[i] == '-') return -1;
    if (n == 0 || (!days && n > 3)) return -1;
    if (days) return v[0] * 86400 + v[1] * 3600 + v[2] * 60 + v[3];
    if (n == 1) return v[0] * 60;
    return n == 2 ? v[0] * 60 + v[1] : v[0] * 3600 + v[1] * 60 + v[2];
}

static const struct {
    const char *name;
    slurm_state state;
} states[] = {
    {"PENDING", SLURM_PENDING},       {"REQUEUED", SLURM_PENDING},      {"REQUEUE_FED", SLURM_PENDING},
    {"REQUEUE_HOLD", SLURM_PENDING},  {"RESV_DEL_HOLD", SLURM_PENDING}, {"CONFIGURING", SLURM_RUNNING},
    {"RUNNING", SLURM_RUNNING},       {"SUSPENDED", SLURM_RUNNING},     {"STOPPED", SLURM_RUNNING},
    {"RESIZING", SLURM_RUNNING},      {"SIGNALING", SLURM_RUNNING},     {"STAGE_OUT", SLURM_RUNNING},
    {"POWER_UP_NODE", SLURM_RUNNING}, {"COMPLETING", SLURM_ENDING},     {"COMPLETED", SLURM_DONE},
    {"FAILED", SLURM_FAILED},         {"OUT_OF_MEMORY", SLURM_FAILED},  {"DEADLINE", SLURM_FAILED},
    {"REVOKED", SLURM_FAILED},        {"SPECIAL_EXIT", SLURM_FAILED},   {"CANCELLED", SLURM_CANCELED},
    {"TIMEOUT", SLURM_TIMEOUT},       {"NODE_FAIL", SLURM_NODE},        {"BOOT_FAIL", SLURM_NODE},
    {"LAUNCH_FAILED", SLURM_FAILED},  {"RECONFIG_FAIL", SLURM_FAILED},  {"PREEMPTED", SLURM_PREEMPT}};

const char *slurm_state_name(slurm_state s) {
    static const char *const names[SLURM_STATES] = {"pending",   "running",     "completing",
                                                    "completed", "failed",      "cancelled",
                                                    "timed out", "node failed", "preempted"};
    return s < SLURM_STATES ? names[s] : "unknown";
}

/* Of squeue(1), "JOB REASON CODES". */
const char *slurm_stuck(const char *reason) {
    static const char limit[] =
        "a limit of the user, the account or the QOS that the request is above by itself";
    static const struct {
        const char *begin, *what;
    } stuck[] = {{"PartitionNodeLimit", "more or fewer nodes than the partition allows"},
                 {"PartitionTimeLimit", "a longer time than the partition allows"},
                 {"PartitionConfig", "more than the partition has or allows"},
                 {"BadConstraints", "no nodes have all that is asked for"},
                 {"AccountNotAllowed", "the account may not use the partition"},
                 {"QOSNotAllowed", "the QOS may not be used here"},
                 {"InvalidAccount", "no such account for this user"},
                 {"InvalidQOS", "no such QOS for this user"},
                 {"JobHeldUser", "held; scontrol release lets it go"},
                 {"JobHeldAdmin", "held by an administrator, who alone can release it"},
                 {"DependencyNeverSatisfied", "it depends on a job that did not end as asked"}};
    for (size_t i = 0; i < sizeof stuck / sizeof *stuck; i++)
        if (!strcmp(reason, stuck[i].begin)) return stuck[i].what;
    /* AssocMaxNodePerJobLimit, QOSMaxWallDurationPerJobLimit and their kind: the job alone is too large */
    const size_t n = strlen(reason);
    const int ours = !strncmp(reason, "Assoc", 5) || !strncmp(reason, "QOS", 3);
    return ours && n > 11 && !strcmp(reason + n - 11, "PerJobLimit") ? limit : NULL;
}

static weft_status bad_line(const char *line, size_t n, const char *what) {
    char shown[96];
    size_t k = 0;
    for (; k < n && k + 1 < sizeof shown; k++) shown[k] = isprint((unsigned char)line[k]) ? line[k] : '?';
    shown[k] = 0;
    return weft_fail(WEFT_ERR_FORMAT, "%s: '%s'", what, shown);
}

/* A decimal number from lo to most, of exactly n digits. */
static int whole(const char *s, size_t n, uint64_t lo, uint64_t most, uint64_t *r) {
    *r = 0;
    if (!n || n > 19) return 0;
    for (size_t i = 0; i < n; i++) {
        if (!isdigit((unsigned char)s[i])) return 0;
        *r = *r * 10 + (uint64_t)(s[i] - '0');
    }
    return *r >= lo && *r <= most;
}

static void copy(char out[SLURM_NAME], const char *s, size_t n) {
    if (n > SLURM_NAME - 1) n = SLURM_NAME - 1;
    for (size_t i = 0; i < n; i++) out[i] = isprint((unsigned char)s[i]) ? s[i] : '?';
    out[n] = 0;
}

enum { FIELDS = 7 };

static weft_status parse_job(const char *line, size_t n, const char *prefix, slurm_job *j, int *ours) {
    const char *field[FIELDS];
    size_t len[FIELDS], k = 0, at = 0;
    for (; k < FIELDS; k++) {
        const char *end = k + 1 < FIELDS ? memchr(line + at, '|', n - at) : line + n;
        if (!end) return bad_line(line, n, "squeue printed a line with too few fields");
        field[k] = line + at;
        len[k] = (size_t)(end - field[k]);
        at += len[k] + 1;
    }
    /* The comment is the last field and the only one that holds what a user wrote: it may contain anything. */
    const size_t np = strlen(prefix);
    uint64_t generation = 0;
    *ours = len[6] > np + 1 && !memcmp(field[6], prefix, np) && field[6][np] == ':';
    if (!*ours) return WEFT_OK;
    *j = (slurm_job){.left_s = -1};
    if (!whole(field[6] + np + 1, len[6] - np - 1, 0, 1000000000, &generation))
        return bad_line(field[6], len[6], "a job's comment ends in no generation");
    if (!whole(field[0], len[0], 1, UINT32_MAX, &j->id))
        return bad_line(line, n, "squeue printed no job number");
    j->generation = (uint32_t)generation;
    size_t i = 0;
    const size_t nstates = sizeof states / sizeof *states;
    while (i < nstates && (strlen(states[i].name) != len[1] || memcmp(states[i].name, field[1], len[1]) != 0))
        i++;
    if (i == nstates) return bad_line(field[1], len[1], "squeue printed a state that weft does not know");
    j->state = states[i].state;
    copy(j->reason, field[2], len[2]);
    copy(j->start, field[3], len[3]);
    char left[SLURM_NAME];
    copy(left, field[4], len[4]);
    j->left_s = slurm_time(left);
    copy(j->nodes, field[5], len[5]);
    copy(j->comment, field[6], len[6]);
    return WEFT_OK;
}

weft_status slurm_parse_jobs(const char *text, size_t n, const char *prefix, slurm_job *jobs, size_t cap,
                             size_t *count) {
    *count = 0;
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        const size_t len = end ? (size_t)(end - text) - at : n - at;
        slurm_job j = {0};
        int ours = 0;
        if (len) WEFT_TRY(parse_job(text + at, len, prefix, &j, &ours));
        if (ours && *count == cap)
            return weft_fail(WEFT_ERR_FORMAT, "squeue lists more than %zu jobs of this run", cap);
        if (ours) jobs[(*count)++] = j;
        at += len + 1;
    }
    return WEFT_OK;
}

weft_status slurm_parse_submitted(const char *text, size_t n, uint64_t *id) {
    while (n && isspace((unsigned char)text[n - 1])) n--;
    size_t begin = n;
    while (begin && text[begin - 1] != '\n') begin--;
    const char *line = text + begin, *semicolon = memchr(line, ';', n - begin);
    const size_t len = semicolon ? (size_t)(semicolon - line) : n - begin;
    if (whole(line, len, 1, UINT32_MAX, id)) return WEFT_OK;
    return bad_line(line, n - begin, "sbatch printed no job number");
}
