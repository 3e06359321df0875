/* The ssh driver's scripts and answers; see launch_driver.h.
 *
 * A script is read by the login node's sh from its input, so nothing but "sh -s" stands on ssh's command line. Files come as
 * here-documents whose end is the mark, quoted, so that the shell does not look into them. Each file is written under another
 * name and renamed. Answer: MARK begin, the command's output, MARK rc N, then for a listing MARK file NAME, text, MARK end. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "runtime/launch/launch_driver.h"
#include "runtime/launch/launch_script.h"

/* Text as a here-document, complete with a last line's end. */
static void here(FILE *f, const launch_driver *d, const char *text) {
    const size_t n = strlen(text);
    fprintf(f, " <<'%s'\n%s%s%s\n", d->mark, text, n && text[n - 1] == '\n' ? "" : "\n", d->mark);
}

static void put(FILE *f, const launch_driver *d, const char *name, const char *text) {
    const char *dir = d->c->site[d->site].dir;
    fprintf(f, "cat >%s/.%s.%s", dir, name, d->mark);
    here(f, d, text);
    fprintf(f, "mv -f %s/.%s.%s %s/%s\n", dir, name, d->mark, dir, name);
}

static void fetch(FILE *f, const launch_driver *d, const char *name) {
    const char *dir = d->c->site[d->site].dir;
    fprintf(f, "if [ -f %s/%s ]; then echo '%s file %s'; cat %s/%s; echo; echo '%s end'; fi\n", dir, name,
            d->mark, name, dir, name, d->mark);
}

static void list(FILE *f, const launch_driver *d) {
    fprintf(f, "squeue -h --me --states=all --name %s -o '%s' </dev/null\necho '%s rc' $?\n", d->name,
            SLURM_FORMAT, d->mark);
    fetch(f, d, "status.json");
    if ((int)d->site != d->c->home || d->c->nsites < 2) return;
    fetch(f, d, "hub.addr");
    fetch(f, d, "hub.json");
    for (size_t i = 0; i < d->c->nmembers; i++) {
        char home[80], away[80];
        launch_invite_names(d->c, i, home, away);
        if (d->c->member[i].site != d->site) fetch(f, d, home);
    }
}

static weft_status prepare(FILE *f, const launch_driver *d) {
    const char *dir = d->c->site[d->site].dir;
    char *yaml = NULL;
    WEFT_TRY(launch_site_yaml(d->c, d->site, d->weft, &yaml));
    fprintf(f, "set -e\nmkdir -p %s\n", dir);
    put(f, d, "run.yaml", d->c->text);
    put(f, d, "site.yaml", yaml);
    fprintf(f, "rm -f %s/stop\n", dir);
    free(yaml);
    return WEFT_OK;
}

static weft_status submit(FILE *f, const launch_driver *d, uint32_t generation) {
    char *script = NULL;
    WEFT_TRY(launch_script(d->c, d->site, generation, d->profile, d->weft, &script));
    fputs("sbatch --parsable", f);
    here(f, d, script);
    free(script);
    return WEFT_OK;
}

static void carry(FILE *f, const launch_driver *d, const launch_hub_files *hub) {
    fputs("set -e\n", f);
    for (size_t i = 0; i < d->c->nmembers; i++) {
        char home[80], away[80];
        launch_invite_names(d->c, i, home, away);
        if (d->c->member[i].site == d->site) put(f, d, away, hub->invite[i]);
    }
    put(f, d, "hub.addr", hub->address);
}

char *launch_ssh_script(const launch_driver *d, const launch_action *a, uint32_t generation,
                        const launch_hub_files *hub) {
    const launch_site_config *s = &d->c->site[d->site];
    const unsigned long long job = a->job;
    char *text = NULL;
    size_t n = 0;
    weft_status r = WEFT_OK;
    FILE *f = open_memstream(&text, &n);
    if (!f) return NULL;
    fputs("umask 077\n", f);
    if (s->conf) fprintf(f, "SLURM_CONF=%s\nexport SLURM_CONF\n", s->conf);
    fprintf(f, "echo '%s begin'\n", d->mark);
    switch (a->op) {
    case LAUNCH_OP_LIST: list(f, d); break;
    case LAUNCH_OP_PREPARE: r = prepare(f, d); break;
    case LAUNCH_OP_SUBMIT: r = submit(f, d, generation); break;
    case LAUNCH_OP_CANCEL: fprintf(f, "scancel %llu </dev/null\n", job); break;
    case LAUNCH_OP_NOW: fprintf(f, "scontrol update JobId=%llu StartTime=now </dev/null\n", job); break;
    case LAUNCH_OP_STOP: put(f, d, "stop", "asked by weft launch --stop\n"); break;
    case LAUNCH_OP_CARRY: carry(f, d, hub); break;
    case LAUNCH_NO_OP: break;
    }
    if (a->op != LAUNCH_OP_LIST) fprintf(f, "echo '%s rc' $?\n", d->mark);
    if (fclose(f) == 0 && r >= 0) return text;
    free(text);
    return NULL;
}

/* Where a line "MARK WORD" begins at or behind `from`; NULL: nowhere. */
static const char *find_mark(const launch_driver *d, const char *from, const char *word) {
    char line[64];
    const size_t n = (size_t)snprintf(line, sizeof line, "%s %.20s", d->mark, word);
    for (const char *p = from; (p = strstr(p, line)); p += n)
        if (p == from || p[-1] == '\n') return p;
    return NULL;
}

weft_status launch_ssh_body(const launch_driver *d, const char *text, size_t n, const char **body,
                            size_t *nbody, int *code) {
    const char *begin = strlen(text) == n ? find_mark(d, text, "begin\n") : NULL;
    if (!begin) return weft_fail(WEFT_ERR_FORMAT, "no answer of the script");
    *body = strchr(begin, '\n') + 1;
    const char *end = find_mark(d, *body, "rc ");
    if (!end) { /* set -e: it stopped on the way, and the shell's exit code says so */
        *nbody = strlen(*body);
        return *code > 0 && *code != 255 ? WEFT_OK
                                         : weft_fail(WEFT_ERR_FORMAT, "the script did not come to its end");
    }
    *nbody = (size_t)(end - *body);
    const char *digits = end + strlen(d->mark) + 4;
    if (!isdigit((unsigned char)*digits)) return weft_fail(WEFT_ERR_FORMAT, "the script's end is cut");
    *code = atoi(digits);
    return WEFT_OK;
}

char *launch_ssh_file(const launch_driver *d, const char *text, const char *name) {
    char word[96];
    snprintf(word, sizeof word, "%s file %s\n", d->mark, name);
    const char *begin = strstr(text, word);
    if (!begin) return NULL;
    begin += strlen(word);
    const char *end = find_mark(d, begin, "end\n");
    if (!end || end == begin) return NULL;
    const size_t n = (size_t)(end - begin) - 1; /* the line's end that the script added */
    char *file = weft_calloc(n + 1, 1);
    if (file) memcpy(file, begin, n);
    return file;
}
