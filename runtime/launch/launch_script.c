/* The batch script and site.yaml; see launch_script.h.
 *
 * The script ends in `exec`, so that the supervisor holds the process that --signal=B: speaks to: one party decides, and the
 * warning before the time limit kills no rank that has no handler for it. Every word in it was checked to be harmless to a
 * shell (launch_config.h); what a user may write freely stands in site.yaml, which no shell reads. */
#include "runtime/launch/launch_script.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const chains[] = {"successor", "requeue", "none"};

static void directives(FILE *f, const launch_config *c, const launch_site_config *s, size_t site,
                       uint32_t generation) {
    char name[64], prefix[LAUNCH_PREFIX];
    launch_job_name(c, site, name);
    launch_prefix(c, site, prefix);
    fprintf(f, "#SBATCH --job-name=%s\n", name);
    fprintf(f, "#SBATCH --comment=%s:%u\n", prefix, generation);
    fprintf(f, "#SBATCH --nodes=%lld --ntasks-per-node=%lld --cpus-per-task=%lld\n", (long long)s->nodes,
            (long long)s->tasks_per_node, (long long)s->cpus_per_task);
    if (s->gpus_per_node) fprintf(f, "#SBATCH --gpus-per-node=%lld\n", (long long)s->gpus_per_node);
    if (s->time) fprintf(f, "#SBATCH --time=%s\n", s->time);
    if (s->account) fprintf(f, "#SBATCH --account=%s\n", s->account);
    if (s->partition) fprintf(f, "#SBATCH --partition=%s\n", s->partition);
    fprintf(f, "#SBATCH --signal=B:USR1@%lld --requeue --no-kill\n", (long long)s->lead_s);
    fprintf(f, "#SBATCH --open-mode=append --output=%s/slurm-%%j.out\n", s->dir);
    if (s->driver == LAUNCH_SSH) fprintf(f, "#SBATCH --chdir=%s\n", s->dir);
    for (size_t i = 0; i < s->extra.n; i++) fprintf(f, "#SBATCH %s\n", s->extra.item[i]);
}

static weft_status end_text(FILE *f, char **text) {
    if (fclose(f) == 0) return WEFT_OK;
    free(*text);
    *text = NULL;
    return weft_fail(WEFT_ERR_NOMEM, "out of memory writing a job's files");
}

weft_status launch_script(const launch_config *c, size_t site, uint32_t generation, const char *profile,
                          const char *weft, char **text) {
    const launch_site_config *s = &c->site[site];
    size_t n = 0;
    FILE *f = open_memstream(text, &n);
    if (!f) return weft_fail(WEFT_ERR_NOMEM, "out of memory writing a job's script");
    fprintf(f, "#!/bin/bash\n# Site %s of the run %s. Made by `weft launch`; the run file is %s/run.yaml.\n",
            s->name, c->run.name, s->dir);
    directives(f, c, s, site, generation);
    if (profile)
        fprintf(f, "\n# Environment profile %s\n%s%s", s->env, profile,
                *profile && profile[strlen(profile) - 1] != '\n' ? "\n" : "");
    fprintf(f,
            "\nexport SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}\n"
            "unset SLURM_NTASKS_PER_NODE # the supervisor says for each step how many\n"
            "exec %s supervise %s/site.yaml\n",
            weft, s->dir);
    return end_text(f, text);
}

/* ---- site.yaml ---- */

static void quoted(FILE *f, const char *s) {
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') fputc('\\', f);
        fputc(*s, f);
    }
    fputc('"', f);
}

/* KEY: [a, b] */
typedef struct yaml_list {
    FILE *f;
    int n;
} yaml_list;

static void add(yaml_list *l, const char *s) {
    fputs(l->n++ ? ", " : "", l->f);
    quoted(l->f, s);
}

static void add_set(yaml_list *l, const char *key, const char *value) {
    add(l, "--set");
    fprintf(l->f, ", \"%s=%s\"", key, value);
}

/* Of the training: what holds for all, then for this site, then where it writes. */
static void command(FILE *f, const launch_config *c, const launch_site_config *s, const char *weft) {
    yaml_list l = {.f = f};
    char path[2048];
    fputs("command: [", f);
    add(&l, weft);
    add(&l, "train");
    snprintf(path, sizeof path, "%s/run.yaml", s->dir);
    add(&l, path);
    if (c->min_sites > 1) {
        snprintf(path, sizeof path, "%lld", (long long)c->min_sites);
        add_set(&l, "sites.least", path);
    }
    for (size_t i = 0; i < c->nset; i++) add(&l, "--set"), add(&l, c->set[i]);
    for (size_t i = 0; i < s->set.n; i++) add(&l, "--set"), add(&l, s->set.item[i]);
    snprintf(path, sizeof path, "%s/run", s->dir);
    add_set(&l, "run.dir", path);
    fputs("]\n", f);
}

static void hub(FILE *f, const launch_config *c, size_t site) {
    if (c->home < 0) {
        fputs("hub:\n  place: none\n", f);
        return;
    }
    fprintf(f, "hub:\n  place: %s\n", (size_t)c->home == site ? "here" : "away");
    if ((size_t)c->home != site) return;
    yaml_list l = {.f = f};
    fputs("  listen: ", f);
    quoted(f, c->hub.listen);
    if (c->hub.advertise) {
        fputs("\n  advertise: ", f);
        quoted(f, c->hub.advertise);
    }
    fputs("\n  sites: [", f);
    for (size_t i = 0; i < c->nmembers; i++) add(&l, c->member[i].name);
    fputs("]\n", f);
}

weft_status launch_site_yaml(const launch_config *c, size_t site, const char *weft, char **text) {
    const launch_site_config *s = &c->site[site];
    size_t n = 0;
    FILE *f = open_memstream(text, &n);
    if (!f) return weft_fail(WEFT_ERR_NOMEM, "out of memory writing site.yaml");
    fprintf(f, "# Made by `weft launch`; read by `weft supervise`.\nrun: %s-%s\nsite: %s\ndir: %s\n",
            c->run.name, c->id, s->name, s->dir);
    command(f, c, s, weft);
    fprintf(f,
            "nodes: %lld\ntasks_per_node: %lld\ncpus_per_task: %lld\nspares: %lld\ncells: %lld\nmin_nodes: "
            "%lld\nlead_s: %lld\n",
            (long long)s->nodes, (long long)s->tasks_per_node, (long long)s->cpus_per_task,
            (long long)s->spares, (long long)s->cells, (long long)s->min_nodes, (long long)s->lead_s);
    fprintf(f, "chain:\n  mode: %s\n  max_generations: %lld\n  no_progress: %lld\n", chains[c->chain.mode],
            (long long)c->chain.max_generations, (long long)c->chain.no_progress);
    hub(f, c, site);
    return end_text(f, text);
}
