/* The `launch:` section; see launch_config.h.
 *
 * Sites have names of the user's choice, so the table of keys is made for each file: the names below launch.sites are listed
 * first, and each gets the keys of a site. Everything else of the run file is the training's and read over here. */
#include "runtime/launch/launch_config.h"

#include <ctype.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "runtime/launch/slurm_text.h"

enum { OTHERS_MAX = 64, FILE_MOST = 1 << 20 };

static const char *const drivers[] = {"local", "ssh", NULL};
static const char *const windows[] = {"cancel", "wait", NULL};
static const char *const chains[] = {"successor", "requeue", "none", NULL};

#define RUN(field)  offsetof(launch_config, field)
#define SITE(field) offsetof(launch_site_config, field)
#define STRING(key, at, def, doc)                                                                            \
    { key, WEFT_CONFIG_STRING, at, def, 0, 0, NULL, doc }
#define INT(key, at, def, lo, hi, doc)                                                                       \
    { key, WEFT_CONFIG_INT, at, def, lo, hi, NULL, doc }
#define ENUM(key, at, def, names, doc)                                                                       \
    { key, WEFT_CONFIG_ENUM, at, def, 0, 0, names, doc }
#define LIST(key, at, doc)                                                                                   \
    { key, WEFT_CONFIG_LIST, at, NULL, 0, 0, NULL, doc }

static const weft_config_key run_keys[] = {
    STRING("run.name", RUN(run.name), "run", "name of the run, in the names of its jobs"),
    INT("launch.min_sites", RUN(min_sites), "1", 1, LAUNCH_SITES,
        "sites that the training starts with; others join it later"),
    INT("launch.start_window_s", RUN(start_window_s), "600", 1, 31536000,
        "seconds from the first site's start within which min_sites have to be there"),
    ENUM("launch.on_window", RUN(on_window), "cancel", windows, "what happens if they are not"),
    STRING("launch.hub.site", RUN(hub.site), NULL, "site whose job runs the hub; the first one if left out"),
    STRING("launch.hub.listen", RUN(hub.listen), "0.0.0.0:7411",
           "ADDR:PORT where the hub is reached on that site's first node"),
    STRING("launch.hub.advertise", RUN(hub.advertise), NULL,
           "HOST[:PORT] of the same as the other sites see it; the node's name if left out"),
    ENUM("launch.chain.mode", RUN(chain.mode), "successor", chains,
         "how a job that has to end goes on: submits the next one, puts itself back into the queue, or not "
         "at all"),
    INT("launch.chain.max_generations", RUN(chain.max_generations), "50", 1, 1000000,
        "jobs of a site, one after the other, at most"),
    INT("launch.chain.no_progress", RUN(chain.no_progress), "3", 1, 1000,
        "jobs in a row without a new checkpoint after which the run ends (exit 93)"),
};

static const weft_config_key site_keys[] = {
    ENUM("driver", SITE(driver), "local", drivers,
         "local: this machine's Slurm commands; ssh: those of host"),
    STRING("host", SITE(host), NULL, "driver ssh: the site's login node, as ssh knows it"),
    LIST("ssh", SITE(ssh), "driver ssh: more options of ssh, e.g. [-p, 2222]"),
    STRING("conf", SITE(conf), NULL, "SLURM_CONF of the cluster, if it is not the default one"),
    STRING("dir", SITE(dir), NULL, "directory of the run on the site's shared file system (required)"),
    INT("nodes", SITE(nodes), "1", 1, 4096, "nodes of the job"),
    INT("tasks_per_node", SITE(tasks_per_node), "1", 1, 1024, "ranks of a node"),
    INT("cpus_per_task", SITE(cpus_per_task), "1", 1, 1024, "cores of a rank"),
    INT("gpus_per_node", SITE(gpus_per_node), "0", 0, 64, "GPUs of a node"),
    INT("spares", SITE(spares), "0", 0, 4096, "of the nodes, those that wait until another one fails"),
    INT("cells", SITE(cells), "1", 1, 32,
        "parts of the job that train as sites of their own: a dead node stops only its part"),
    INT("min_nodes", SITE(min_nodes), "1", 1, 4096, "nodes below which the job gives its place up"),
    INT("lead_s", SITE(lead_s), "120", 10, 86400,
        "seconds before the time limit at which Slurm warns the job, at least"),
    STRING("time", SITE(time), NULL,
           "time limit of the job, D-HH:MM:SS or HH:MM:SS; the partition's if left out"),
    STRING("account", SITE(account), NULL, "account to charge"),
    STRING("partition", SITE(partition), NULL, "partition"),
    STRING("env", SITE(env), NULL,
           "environment profile: a name of slurm/env, e.g. generic-tcp, or a file of shell lines"),
    LIST("extra", SITE(extra), "more options of sbatch, e.g. [--constraint=gpu, --exclusive]"),
    LIST("set", SITE(set),
         "keys of the run file that differ at this site, e.g. [data.train=/scratch/x.wtok.h5]"),
    STRING("weft", SITE(weft), NULL, "the command weft at this site; local: this one, ssh: weft of its PATH"),
};

enum { RUN_KEYS = sizeof run_keys / sizeof *run_keys, SITE_KEYS = sizeof site_keys / sizeof *site_keys };

typedef char name_of_key[WEFT_CONFIG_NAME];

char *launch_config_help(void) {
    name_of_key names[SITE_KEYS];
    weft_config_key all[RUN_KEYS - 1 + SITE_KEYS];
    memcpy(all, run_keys + 1, sizeof run_keys - sizeof *run_keys); /* run.name is the training's */
    for (size_t i = 0; i < SITE_KEYS; i++) {
        snprintf(names[i], sizeof names[i], "launch.sites.NAME.%s", site_keys[i].name);
        all[RUN_KEYS - 1 + i] = site_keys[i];
        all[RUN_KEYS - 1 + i].name = names[i];
    }
    return weft_config_help(all, RUN_KEYS - 1 + SITE_KEYS);
}

/* ---- errors with the place ---- */

/* "run.yaml:7: launch.sites.north.host" (without the line if the key is not in the file). */
static weft_status bad_key(const launch_config *c, const char *key, const char *what) {
    const int line = weft_config_line(c->config, key);
    if (line) return weft_fail(WEFT_ERR_CONFIG, "%s:%d: %s: %s", c->path, line, key, what);
    return weft_fail(WEFT_ERR_CONFIG, "%s: %s: %s", c->path, key, what);
}

static weft_status bad_site(const launch_config *c, const launch_site_config *s, const char *key,
                            const char *what) {
    char full[WEFT_CONFIG_NAME];
    snprintf(full, sizeof full, "launch.sites.%.40s.%.40s", s->name, key);
    return bad_key(c, full, what);
}

/* ---- checks ---- */

static weft_status check_words(const launch_config *c, const launch_site_config *s) {
    const struct {
        const char *key, *value;
    } words[] = {{"host", s->host},       {"conf", s->conf},           {"dir", s->dir}, {"time", s->time},
                 {"account", s->account}, {"partition", s->partition}, {"env", s->env}, {"weft", s->weft}};
    static const char rule[] =
        "may hold letters, digits and _ . / : = , @ % + - only, and does not begin with -";
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].value && !slurm_word_ok(words[i].value, 0)) return bad_site(c, s, words[i].key, rule);
    for (size_t i = 0; i < s->ssh.n; i++)
        if (!slurm_word_ok(s->ssh.item[i], 1))
            return bad_site(c, s, "ssh",
                            "each word may hold letters, digits and _ . / : = , @ % + - only; the rest "
                            "belongs into ssh_config");
    for (size_t i = 0; i < s->extra.n; i++)
        if (!slurm_word_ok(s->extra.item[i], 1) || strncmp(s->extra.item[i], "--", 2) != 0)
            return bad_site(
                c, s, "extra",
                "each is a long option of sbatch, --NAME=VALUE, of letters, digits and _ . / : = , @ % + -");
    for (size_t i = 0; i < s->set.n; i++)
        if (!strchr(s->set.item[i], '=') || !strncmp(s->set.item[i], "launch.", 7) ||
            strpbrk(s->set.item[i], "\n\r"))
            return bad_site(c, s, "set", "each is KEY=VALUE with a key of the training");
    return WEFT_OK;
}

/* HOST:PORT; the port may be missing where that is said. What the host is, its own system knows. */
static int address_ok(const char *text, int bare) {
    const char *colon = strrchr(text, ':');
    const size_t n = colon ? (size_t)(colon - text) : strlen(text);
    char *end = NULL;
    const long port = colon && isdigit((unsigned char)colon[1]) ? strtol(colon + 1, &end, 10) : -1;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i])) return 0;
    return colon ? end && !*end && port <= 65535 : bare && n;
}

/* Options that weft itself gives, and that would break it if they came twice. */
static weft_status check_extra(const launch_config *c, const launch_site_config *s) {
    static const char *const own[] = {"--job-name",      "--nodes",   "--ntasks",    "--ntasks-per-node",
                                      "--cpus-per-task", "--time",    "--signal",    "--requeue",
                                      "--no-requeue",    "--no-kill", "--open-mode", "--output",
                                      "--error",         "--comment", "--array",     "--parsable",
                                      "--wait",          "--wrap",    "--chdir"};
    for (size_t i = 0; i < s->extra.n; i++)
        for (size_t k = 0; k < sizeof own / sizeof *own; k++) {
            const size_t n = strcspn(s->extra.item[i], "="); /* sbatch takes --arr for --array, too */
            if (n <= strlen(own[k]) && !strncmp(s->extra.item[i], own[k], n))
                return bad_site(
                    c, s, "extra",
                    "this option is weft's own; use nodes, tasks_per_node, cpus_per_task, time, dir");
        }
    return WEFT_OK;
}

static weft_status check_site(const launch_config *c, const launch_site_config *s) {
    WEFT_TRY(check_words(c, s));
    WEFT_TRY(check_extra(c, s));
    if (!s->dir || s->dir[0] != '/')
        return bad_site(c, s, "dir",
                        "is needed: a directory, beginning with /, that all nodes of the site see");
    if (strstr(s->dir, "/../") || strchr(s->dir, '%'))
        return bad_site(c, s, "dir", "holds neither /../ nor %");
    if (s->driver == LAUNCH_SSH && !s->host)
        return bad_site(c, s, "host", "is needed with driver: ssh: the site's login node");
    if (s->driver == LAUNCH_LOCAL && s->host)
        return bad_site(c, s, "host", "is for driver: ssh; write that, or leave the host out");
    if (s->driver == LAUNCH_LOCAL && s->ssh.n) return bad_site(c, s, "ssh", "is for driver: ssh");
    if (s->conf && s->conf[0] != '/') return bad_site(c, s, "conf", "is a path that begins with /");
    if (s->weft && s->weft[0] != '/' && strchr(s->weft, '/'))
        return bad_site(c, s, "weft", "is a path that begins with /, or a name to be found in PATH");
    if (s->time && slurm_time(s->time) < 60)
        return bad_site(c, s, "time", "expected D-HH:MM:SS, HH:MM:SS or minutes, of one minute at least");
    if (s->time && slurm_time(s->time) <= s->lead_s)
        return bad_site(c, s, "time",
                        "is not longer than lead_s: the job would stop as soon as it has begun");
    if (s->spares >= s->nodes) return bad_site(c, s, "spares", "are of the nodes: fewer than nodes");
    if (s->min_nodes > s->nodes - s->spares) return bad_site(c, s, "min_nodes", "is at most nodes - spares");
    if (s->cells > s->nodes - s->spares)
        return bad_site(c, s, "cells", "is at most nodes - spares: a cell has a node at least");
    return WEFT_OK;
}

static weft_status check_pair(const launch_config *c, const launch_site_config *a,
                              const launch_site_config *b) {
    const char *ha = a->host ? a->host : "", *hb = b->host ? b->host : "";
    size_t na = strlen(a->dir), nb = strlen(b->dir);
    while (na > 1 && a->dir[na - 1] == '/') na--;
    while (nb > 1 && b->dir[nb - 1] == '/') nb--;
    if (na != nb || strncmp(a->dir, b->dir, na) != 0 || strcmp(ha, hb) != 0) return WEFT_OK;
    char what[160];
    snprintf(what, sizeof what, "is that of site '%s', too: each site has a directory of its own", a->name);
    return bad_site(c, b, "dir", what);
}

static weft_status check(launch_config *c) {
    if (!c->run.name || !slurm_word_ok(c->run.name, 0) || strpbrk(c->run.name, ":/=,@%+") ||
        strlen(c->run.name) > 38)
        return bad_key(c, "run.name", "names the jobs: up to 38 letters, digits and _ . -");
    if ((size_t)c->min_sites > c->nsites)
        return bad_key(c, "launch.min_sites", "is more than there are sites below launch.sites");
    for (size_t i = 0; i < c->nsites; i++) {
        WEFT_TRY(check_site(c, &c->site[i]));
        for (size_t k = 0; k < i; k++) WEFT_TRY(check_pair(c, &c->site[k], &c->site[i]));
    }
    if (c->hub.listen && (!slurm_word_ok(c->hub.listen, 0) || !address_ok(c->hub.listen, 0)))
        return bad_key(c, "launch.hub.listen", "is ADDR:PORT, e.g. 0.0.0.0:7411; port 0: any that is free");
    if (c->hub.advertise && (!slurm_word_ok(c->hub.advertise, 0) || !address_ok(c->hub.advertise, 1)))
        return bad_key(c, "launch.hub.advertise", "is HOST or HOST:PORT, as the other sites see it");
    c->home = c->nsites > 1 || c->site[0].cells > 1 ? 0 : -1;
    if (!c->hub.site) return WEFT_OK;
    size_t home = 0;
    while (home < c->nsites && strcmp(c->site[home].name, c->hub.site) != 0) home++;
    if (home == c->nsites) return bad_key(c, "launch.hub.site", "is none of launch.sites");
    if (c->home >= 0) c->home = (int)home;
    return WEFT_OK;
}

/* A cell of a site that has several is a member of its own, as the supervisor calls it. */
static weft_status name_members(launch_config *c) {
    for (size_t i = 0; i < c->nsites; i++)
        for (int64_t k = 1; k <= c->site[i].cells; k++) {
            if (c->nmembers == LAUNCH_MEMBERS)
                return bad_site(c, &c->site[i], "cells",
                                "make more than 64 members of the run, with the other sites");
            c->member[c->nmembers].site = i;
            c->member[c->nmembers].cell = c->site[i].cells > 1 ? k : 0;
            char *name = c->member[c->nmembers++].name;
            if (c->site[i].cells > 1)
                snprintf(name, LAUNCH_MEMBER, "%.31s-c%d", c->site[i].name, (int)k);
            else
                snprintf(name, LAUNCH_MEMBER, "%.31s", c->site[i].name);
            for (size_t m = 0; m + 1 < c->nmembers; m++)
                if (!strcmp(c->member[m].name, name))
                    return bad_site(c, &c->site[i], "cells",
                                    "a cell is called SITE-cK, and another site has such a name");
        }
    return WEFT_OK;
}

/* ---- the table ---- */

static uint64_t hash(uint64_t h, const char *s) {
    do h = (h ^ (unsigned char)*s) * 0x100000001b3u; /* FNV-1a, the zero included */
    while (*s++);
    return h;
}

/* By its name and where its home is: whoever starts weft launch where finds the jobs again, and sites may be added. */
static void name_run(launch_config *c) {
    const launch_site_config *home = &c->site[c->home < 0 ? 0 : c->home];
    uint64_t h = hash(0xcbf29ce484222325u, c->run.name);
    h = hash(h, home->host ? home->host : "");
    h = hash(h, home->dir);
    snprintf(c->id, sizeof c->id, "%08llx", (unsigned long long)((h ^ h >> 32) & 0xffffffffu));
}

static weft_status list_sites(launch_config *c, name_of_key *sites) {
    char what[192];
    WEFT_TRY(
        weft_config_members(c->path, c->text, c->ntext, "launch.sites", sites, LAUNCH_SITES, &c->nsites));
    if (!c->nsites)
        return weft_fail(WEFT_ERR_CONFIG,
                         "%s: no sites: below launch.sites stands one section for each, e.g. 'launch: "
                         "{sites: {here: {nodes: 2, dir: /scratch/run}}}'",
                         c->path);
    for (size_t i = 0; i < c->nsites; i++) {
        if (!slurm_site_ok(sites[i])) {
            snprintf(what, sizeof what,
                     "'%.40s' is no name for a site: up to 31 letters, digits, _ and -, first a letter or "
                     "digit, and not 'hub'",
                     sites[i]);
            return weft_fail(WEFT_ERR_CONFIG, "%s: launch.sites: %s", c->path, what);
        }
        for (size_t k = 0; k < i; k++)
            if (!strcmp(sites[i], sites[k]))
                return weft_fail(WEFT_ERR_CONFIG, "%s: launch.sites: '%s' stands twice", c->path, sites[i]);
    }
    return WEFT_OK;
}

/* Names directly below `section` that are not of this table become keys that are read over. */
static weft_status add_others(launch_config *c, const char *section, const char *except, name_of_key *name,
                              size_t *nkeys, size_t room) {
    name_of_key found[OTHERS_MAX];
    size_t n = 0;
    WEFT_TRY(weft_config_members(c->path, c->text, c->ntext, section, found, OTHERS_MAX, &n));
    for (size_t i = 0; i < n && *nkeys < room; i++) {
        const size_t len = strlen(except);
        if (!strcmp(found[i], except) || (!strncmp(found[i], except, len) && found[i][len] == '.')) continue;
        if (!*section && (!strcmp(found[i], "run") || !strcmp(found[i], "run.name"))) continue;
        char *full = name[*nkeys];
        const int w = snprintf(full, WEFT_CONFIG_NAME, "%s%s%s", section, *section ? "." : "", found[i]);
        if (w >= WEFT_CONFIG_NAME - 1) continue; /* the training's reader refuses it */
        size_t k = 0;
        while (k < *nkeys && strcmp(c->keys[k].name, full) != 0) k++;
        if (k < *nkeys) continue;
        c->keys[(*nkeys)++] = (weft_config_key){.name = full, .type = WEFT_CONFIG_OTHER};
    }
    return WEFT_OK;
}

static weft_status make_table(launch_config *c, name_of_key *sites, size_t *nkeys) {
    const size_t room = RUN_KEYS + c->nsites * SITE_KEYS + 2 * OTHERS_MAX;
    name_of_key *names = c->names = weft_calloc(room, sizeof *names);
    c->keys = weft_calloc(room, sizeof *c->keys);
    if (!c->names || !c->keys) return WEFT_ERR_NOMEM;
    memcpy(c->keys, run_keys, sizeof run_keys);
    *nkeys = RUN_KEYS;
    for (size_t i = 0; i < c->nsites; i++)
        for (size_t k = 0; k < SITE_KEYS; k++, ++*nkeys) {
            snprintf(names[*nkeys], sizeof *names, "launch.sites.%.31s.%.31s", sites[i], site_keys[k].name);
            c->keys[*nkeys] = site_keys[k];
            c->keys[*nkeys].name = names[*nkeys];
            c->keys[*nkeys].offset += offsetof(launch_config, site) + i * sizeof *c->site;
        }
    WEFT_TRY(add_others(c, "", "launch", names, nkeys, room));
    return add_others(c, "run", "name", names, nkeys, room);
}

/* The names of the sites live behind the table. */
static weft_status keep_names(launch_config *c, name_of_key *sites) {
    for (size_t i = 0; i < c->nsites; i++)
        if (!(c->site[i].name = weft_strdup(sites[i]))) return WEFT_ERR_NOMEM;
    return WEFT_OK;
}

static weft_status fill(launch_config *c, const char *const *sets, size_t nsets) {
    name_of_key sites[LAUNCH_SITES];
    size_t nkeys = 0, nours = 0;
    const char **ours = weft_calloc(nsets + 1, sizeof *ours);
    c->set = weft_calloc(nsets + 1, sizeof *c->set);
    weft_status s = ours && c->set ? list_sites(c, sites) : WEFT_ERR_NOMEM;
    for (size_t i = 0; s >= 0 && i < nsets; i++) {
        if (strpbrk(sets[i], "\n\r")) {
            s = weft_fail(WEFT_ERR_CONFIG, "--set %.*s: has a line break; site.yaml holds one setting a line",
                          (int)strcspn(sets[i], "=\n\r"), sets[i]);
            break;
        }
        if (!strncmp(sets[i], "launch.", 7) || !strncmp(sets[i], "run.name=", 9)) ours[nours++] = sets[i];
        if (strncmp(sets[i], "launch.", 7) != 0) c->set[c->nset++] = sets[i];
    }
    if (s >= 0) s = make_table(c, sites, &nkeys);
    if (s >= 0) s = weft_config_parse(c->path, c->text, c->ntext, ours, nours, c->keys, nkeys, c, &c->config);
    if (s >= 0) s = keep_names(c, sites);
    if (s >= 0) s = check(c);
    if (s >= 0) name_run(c);
    if (s >= 0) s = name_members(c);
    free(ours);
    return s;
}

weft_status launch_config_parse(const char *name, const char *text, size_t n, const char *const *sets,
                                size_t nsets, launch_config **out) {
    *out = NULL;
    launch_config *c = weft_calloc(1, sizeof *c);
    if (!c) return WEFT_ERR_NOMEM;
    c->home = -1;
    c->path = weft_strdup(name);
    c->text = weft_calloc(n + 1, 1);
    c->ntext = n;
    weft_status s = c->path && c->text ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s >= 0) {
        memcpy(c->text, text, n);
        s = fill(c, sets, nsets);
    }
    if (s < 0)
        launch_config_free(c);
    else
        *out = c;
    return s;
}

weft_status launch_config_load(const char *path, const char *const *sets, size_t nsets, launch_config **out) {
    char *text = NULL;
    size_t n = 0;
    *out = NULL;
    weft_status s = weft_file_read(path, FILE_MOST, &text, &n);
    if (s == WEFT_ERR_FORMAT) s = WEFT_ERR_CONFIG;
    if (s >= 0) s = launch_config_parse(path, text, n, sets, nsets, out);
    free(text);
    return s;
}

void launch_config_free(launch_config *c) {
    if (!c) return;
    weft_config_destroy(c->config);
    for (size_t i = 0; i < c->nsites; i++) free((char *)c->site[i].name);
    free(c->names);
    free(c->keys);
    free(c->set);
    free(c->path);
    free(c->text);
    free(c);
}

void launch_prefix(const launch_config *c, size_t site, char prefix[LAUNCH_PREFIX]) {
    snprintf(prefix, LAUNCH_PREFIX, "weft:%.38s-%s:%.31s", c->run.name, c->id, c->site[site].name);
}

void launch_job_name(const launch_config *c, size_t site, char name[64]) {
    snprintf(name, 64, "weft-%s-%.31s", c->id, c->site[site].name);
}
