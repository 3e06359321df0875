/* weft ckpt ls, show, verify, diff, prune, repair: looking after checkpoints. One process, no MPI. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/checkpoint/dir.h"
#include "io/checkpoint/verify.h"
#include "runtime/cli/cli.h"

enum { OPT_JSON = 1000, OPT_QUICK, OPT_FROM, OPT_KEEP, OPT_KEEP_EVERY, OPT_DRY, OPT_PREFIX };
#define FROM_MAX 16

typedef struct arguments {
    const char *dir, *other, *prefix, *from[FROM_MAX];
    size_t nfrom;
    int want, json, quick, dry; /* want: directories that the command takes */
    int64_t keep, keep_every;
} arguments;

#define JSON_OPTION                                                                                          \
    { "json", OPT_JSON, 0, 0, "print JSON", 0 }

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case OPT_JSON: a->json = 1; return 0;
    case OPT_QUICK: a->quick = 1; return 0;
    case OPT_DRY: a->dry = 1; return 0;
    case OPT_PREFIX: a->prefix = arg; return 0;
    case OPT_KEEP: a->keep = cli_int(state, "--keep", arg, 1, 1000000); return 0;
    case OPT_KEEP_EVERY: a->keep_every = cli_int(state, "--keep-every", arg, 1, INT64_MAX); return 0;
    case OPT_FROM:
        if (a->nfrom == FROM_MAX) argp_error(state, "more than %d copies", FROM_MAX);
        a->from[a->nfrom++] = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (!a->dir)
            a->dir = arg;
        else if (a->want == 2 && !a->other)
            a->other = arg;
        else
            argp_error(state, "too many arguments: '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!a->dir || (a->want == 2 && !a->other))
            argp_error(state, a->want == 2 ? "which two checkpoints?" : "which directory?");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* RUN, RUN/checkpoints: the latter. free(). */
static char *root_of(const char *dir) {
    struct stat st;
    char *inside = weft_path_join(dir, "checkpoints");
    if (inside && stat(inside, &st) == 0 && S_ISDIR(st.st_mode)) return inside;
    free(inside);
    return weft_strdup(dir);
}

static void size_text(int64_t bytes, char out[32]) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int k = 0;
    for (; v >= 1024 && k < 4; k++) v /= 1024;
    snprintf(out, 32, k ? "%.1f %s" : "%.0f %s", v, unit[k]);
}

static void time_text(int64_t ns, char out[32]) {
    const time_t s = (time_t)(ns / 1000000000);
    struct tm t;
    strftime(out, 32, "%Y-%m-%d %H:%M:%S", localtime_r(&s, &t));
}

static int64_t file_bytes(const ckpt_manifest *m) {
    int64_t n = 0;
    for (size_t i = 0; i < m->nfiles; i++) n += m->file[i].bytes;
    for (size_t i = 0; i < m->nextra; i++) n += m->extra[i].bytes;
    return n;
}

/* --- ls ----------------------------------------------------------------------------------------------------------- */

static int print_entry(const char *root, const ckpt_entry *e, json_t *list) {
    char *path = weft_path_join(root, e->name), size[32] = "", when[32] = "";
    ckpt_manifest m = {0};
    const weft_status s = path ? ckpt_manifest_read(path, &m) : WEFT_ERR_NOMEM;
    const char *state = s >= 0 ? "committed" : s == WEFT_ERR_NOTFOUND ? "unfinished" : "damaged";
    if (list) {
        json_t *j = json_pack("{s:o, s:s}", "name", cli_json_text(e->name), "state", state);
        if (s >= 0)
            json_object_update_new(j, json_pack("{s:I, s:I, s:I, s:I, s:I}", "step", (json_int_t)m.step,
                                                "bytes", (json_int_t)file_bytes(&m), "tensors",
                                                (json_int_t)m.table.ntensors, "ranks", (json_int_t)m.ranks,
                                                "created_ns", (json_int_t)m.created_ns));
        json_array_append_new(list, j);
    } else if (s >= 0) {
        size_text(file_bytes(&m), size);
        time_text(m.created_ns, when);
        printf("%-24s %10lld  %s  %10s  %6zu tensors  %4lld ranks\n", e->name, (long long)m.step, when, size,
               m.table.ntensors, (long long)m.ranks);
    } else
        printf("%-24s %s\n", e->name, state);
    ckpt_manifest_free(&m);
    free(path);
    return s >= 0;
}

int cli_ckpt_ls(int argc, char **argv) {
    static const struct argp_option options[] = {JSON_OPTION, {0}};
    static const struct argp argp = {
        options,
        parse,
        "DIR",
        "Lists the checkpoints below DIR (a run, or its checkpoints), the newest first.\vExample:\n  "
        "weft ckpt ls runs/kjv",
        0,
        0,
        0};
    arguments a = {.want = 1};
    cli_parse(&argp, argc, argv, &a);
    char *root = root_of(a.dir);
    ckpt_entry *list = NULL;
    size_t n = 0;
    weft_status s = root ? ckpt_list(root, &list, &n) : WEFT_ERR_NOMEM;
    json_t *all = a.json ? json_array() : NULL;
    for (size_t i = 0; s >= 0 && i < n; i++) print_entry(root, &list[i], all);
    if (s >= 0 && !n && !a.json) printf("%s holds no checkpoint\n", root);
    free(list);
    free(root);
    if (s < 0) {
        json_decref(all);
        return cli_fail(s);
    }
    return a.json ? cli_json_print(all) : 0;
}

/* --- show ---------------------------------------------------------------------------------------------------------- */

static void shape_text(const ckpt_tensor *t, char out[128]) {
    size_t at = 0;
    out[0] = 0;
    for (uint32_t d = 0; d < t->ndim && at < 110; d++)
        at += (size_t)snprintf(out + at, 128 - at, "%s%lld", d ? " x " : "", (long long)t->shape[d]);
}

static json_t *manifest_json(const ckpt_manifest *m, const char *prefix) {
    json_t *tensors = json_array();
    for (size_t i = 0; i < m->table.ntensors; i++) {
        const ckpt_tensor *t = &m->table.tensor[i];
        if (prefix && strncmp(t->name, prefix, strlen(prefix)) != 0) continue;
        json_t *shape = json_array();
        for (uint32_t d = 0; d < t->ndim; d++) json_array_append_new(shape, json_integer(t->shape[d]));
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "dtype",
                                                 weft_dtype_name(t->dtype), "shape", shape, "pieces",
                                                 (json_int_t)t->n));
    }
    return json_pack("{s:I, s:s, s:I, s:s, s:I, s:I, s:I, s:o, s:o}", "step", (json_int_t)m->step, "run",
                     m->run, "created_ns", (json_int_t)m->created_ns, "weft", m->weft, "ranks",
                     (json_int_t)m->ranks, "bytes", (json_int_t)file_bytes(m), "files", (json_int_t)m->nfiles,
                     "tensors", tensors, "state", json_loads(m->state, 0, NULL));
}

static void print_manifest(const ckpt_manifest *m, const char *prefix) {
    char size[32], when[32], shape[128];
    size_text(file_bytes(m), size);
    time_text(m->created_ns, when);
    printf("step %lld, saved %s by weft %s on %lld ranks, run %s\n", (long long)m->step, when, m->weft,
           (long long)m->ranks, m->run);
    printf("%zu tensors in %zu files, %s, digests of every %lld KiB\n\n", m->table.ntensors, m->nfiles, size,
           (long long)(m->segment_bytes >> 10));
    for (size_t i = 0; i < m->table.ntensors; i++) {
        const ckpt_tensor *t = &m->table.tensor[i];
        if (prefix && strncmp(t->name, prefix, strlen(prefix)) != 0) continue;
        shape_text(t, shape);
        printf("%-48s %-5s %-24s %zu piece%s\n", t->name, weft_dtype_name(t->dtype), shape, t->n,
               t->n > 1 ? "s" : "");
    }
    for (size_t i = 0; i < m->nextra; i++)
        printf("%-48s file  %lld bytes\n", m->extra[i].path, (long long)m->extra[i].bytes);
}

int cli_ckpt_show(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"prefix", OPT_PREFIX, "TEXT", 0, "only tensors whose names begin so", 0}, JSON_OPTION, {0}};
    static const struct argp argp = {
        options,
        parse,
        "CHECKPOINT",
        "Prints what a checkpoint holds: its tensors, files and (--json) the state of the run.\vExample:"
        "\n  weft ckpt show runs/kjv/checkpoints/latest --prefix model/",
        0,
        0,
        0};
    arguments a = {.want = 1};
    cli_parse(&argp, argc, argv, &a);
    ckpt_manifest m;
    const weft_status s = ckpt_manifest_read(a.dir, &m);
    int code = s < 0 ? cli_fail(s) : 0;
    if (s >= 0 && a.json) code = cli_json_print(manifest_json(&m, a.prefix));
    if (s >= 0 && !a.json) print_manifest(&m, a.prefix);
    ckpt_manifest_free(&m);
    return code;
}

/* --- verify -------------------------------------------------------------------------------------------------------- */

static void print_damage(void *arg, const ckpt_damage *d) {
    json_t *list = *(json_t **)arg;
    if (list) {
        json_t *j = json_pack("{s:o, s:o}", "file", cli_json_text(d->file), "text", cli_json_text(d->text));
        if (d->tensor) json_object_set_new(j, "tensor", json_string(d->tensor));
        if (d->segment >= 0) json_object_set_new(j, "segment", json_integer(d->segment));
        if (d->hi) json_object_set_new(j, "bytes", json_pack("[I,I]", (json_int_t)d->lo, (json_int_t)d->hi));
        json_array_append_new(list, j);
        return;
    }
    printf("damaged: %s", d->file);
    if (d->tensor) printf("  tensor %s", d->tensor);
    if (d->segment >= 0) printf("  piece %lld segment %lld", (long long)d->piece, (long long)d->segment);
    if (d->hi) printf("  bytes %lld..%lld", (long long)d->lo, (long long)d->hi);
    if (!d->hi) printf("  %s", d->text);
    printf("\n");
}

int cli_ckpt_verify(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"quick", OPT_QUICK, 0, 0, "do not read the tensors: sizes, manifest, catalogues and tables only", 0},
        JSON_OPTION,
        {0}};
    static const struct argp argp = {
        options,
        parse,
        "CHECKPOINT",
        "Checks every byte of a checkpoint and names what is damaged: file, tensor, segment, bytes.\v"
        "Example:\n  weft ckpt verify runs/kjv/checkpoints/latest",
        0,
        0,
        0};
    arguments a = {.want = 1};
    cli_parse(&argp, argc, argv, &a);
    json_t *list = a.json ? json_array() : NULL;
    const double since = weft_now();
    const weft_status s = ckpt_verify(a.dir, !a.quick, print_damage, &list);
    const double seconds = weft_now() - since;
    if (a.json) {
        char text[2048];
        snprintf(text, sizeof text, "%s", s < 0 ? weft_last_error() : "");
        const int code = cli_json_print(json_pack("{s:o, s:b, s:o, s:f, s:o}", "checkpoint",
                                                  cli_json_text(a.dir), "whole", s >= 0, "damage", list,
                                                  "seconds", seconds, "error", cli_json_text(text)));
        return s < 0 ? weft_exit_code(s) : code;
    }
    if (s < 0) return cli_fail(s);
    ckpt_manifest m;
    if (ckpt_manifest_read(a.dir, &m) >= 0)
        printf("%s is whole: %zu tensors, %.1f MiB%s in %.2f s\n", a.dir, m.table.ntensors,
               (double)file_bytes(&m) / 1048576, a.quick ? " (contents not read)" : "", seconds);
    ckpt_manifest_free(&m);
    return 0;
}

/* --- diff ---------------------------------------------------------------------------------------------------------- */

static void print_difference(void *arg, const ckpt_difference *d) {
    static const char *const kind[] = {"only in the first", "only in the second", "other type or shape",
                                       "other values"};
    json_t *list = *(json_t **)arg;
    if (list) {
        json_t *j = json_pack("{s:s, s:s}", "tensor", d->tensor, "difference", kind[d->kind]);
        if (d->kind == CKPT_OTHER_VALUES)
            json_object_update_new(j, json_pack("{s:I, s:I, s:o}", "elements", (json_int_t)d->elements,
                                                "differing", (json_int_t)d->differing, "largest",
                                                cli_json_number(d->largest)));
        json_array_append_new(list, j);
        return;
    }
    printf("%-48s %s", d->tensor, kind[d->kind]);
    if (d->kind == CKPT_OTHER_VALUES)
        printf(": %lld of %lld, by %.3g at most", (long long)d->differing, (long long)d->elements,
               d->largest);
    printf("\n");
}

int cli_ckpt_diff(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"prefix", OPT_PREFIX, "TEXT", 0, "only tensors whose names begin so", 0}, JSON_OPTION, {0}};
    static const struct argp argp = {
        options,
        parse,
        "A B",
        "Compares the tensors of two checkpoints bit by bit, however they are cut. Exit code 1: they "
        "differ.\vExample:\n  weft ckpt diff a/checkpoints/latest b/checkpoints/latest --prefix model/",
        0,
        0,
        0};
    arguments a = {.want = 2};
    cli_parse(&argp, argc, argv, &a);
    json_t *list = a.json ? json_array() : NULL;
    size_t found;
    const weft_status s = ckpt_diff(a.dir, a.other, a.prefix, print_difference, &list, &found);
    if (s < 0) {
        json_decref(list);
        return cli_fail(s);
    }
    const int code = a.json ? cli_json_print(list) : 0;
    if (!a.json && !found) printf("the same\n");
    return code ? code : found > 0;
}

/* --- prune --------------------------------------------------------------------------------------------------------- */

static void print_removed(void *arg, const char *name) {
    const arguments *a = arg;
    printf("%s %s\n", a->dry ? "would remove" : "removed", name);
}

int cli_ckpt_prune(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"keep", OPT_KEEP, "N", 0, "newest that stay and can be read (default 2)", 0},
        {"keep-every", OPT_KEEP_EVERY, "N", 0, "steps that are multiples of N stay too", 0},
        {"dry-run", OPT_DRY, 0, 0, "only say what would go", 0},
        {0}};
    static const struct argp argp = {
        options,
        parse,
        "DIR",
        "Removes old checkpoints below DIR (a run, or its checkpoints). The newest that can be read, and "
        "any that holds a file named pin, stay.\vExample:\n  weft ckpt prune runs/kjv --keep 3 --dry-run",
        0,
        0,
        0};
    arguments a = {.want = 1, .keep = 2};
    cli_parse(&argp, argc, argv, &a);
    char *root = root_of(a.dir);
    const weft_status s =
        root ? ckpt_prune(root, a.keep, a.keep_every, CKPT_ALL_STEPS, a.dry, print_removed, &a)
             : WEFT_ERR_NOMEM;
    free(root);
    return s < 0 ? cli_fail(s) : 0;
}

/* --- repair -------------------------------------------------------------------------------------------------------- */

static void print_mended(void *arg, const char *file) {
    (void)arg;
    printf("mended %s\n", file);
}

int cli_ckpt_repair(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"from", OPT_FROM, "DIR", 0,
         "a copy of this checkpoint, damaged elsewhere or not at all; may be repeated", 0},
        {0}};
    static const struct argp argp = {
        options,
        parse,
        "CHECKPOINT",
        "Mends a damaged checkpoint from copies of it, segment by segment, and from itself (tables of "
        "digests). The damaged files stay as NAME.bad.\vExample:\n  weft ckpt repair "
        "runs/kjv/checkpoints/step_0000001000 --from /backup/step_0000001000",
        0,
        0,
        0};
    arguments a = {.want = 1};
    cli_parse(&argp, argc, argv, &a);
    weft_status s = ckpt_repair(a.dir, a.from, a.nfrom, print_mended, NULL);
    if (s >= 0) s = ckpt_verify(a.dir, 1, NULL, NULL);
    if (s < 0) return cli_fail(s);
    printf("%s is whole\n", a.dir);
    return 0;
}
