/* The `launch:` section of a run file: which sites, and the job of each. Everything is checked before anybody is contacted;
 * what reaches a command line (of a shell even, on the other end of ssh) consists of harmless characters only. */
#ifndef WEFT_LAUNCH_CONFIG_H
#define WEFT_LAUNCH_CONFIG_H

#include "base/config.h"

enum {
    LAUNCH_SITES = 16,   /* of a run at most */
    LAUNCH_MEMBERS = 64, /* of its hub: sites, or cells of sites */
    LAUNCH_MEMBER = 48,  /* bytes of a member's name, its zero included */
    LAUNCH_PREFIX = 160, /* bytes of weft:RUN-ID:SITE, its zero included */
};

enum { LAUNCH_LOCAL, LAUNCH_SSH };                            /* launch.sites.NAME.driver */
enum { LAUNCH_CANCEL, LAUNCH_WAIT };                          /* launch.on_window */
enum { LAUNCH_SUCCESSOR, LAUNCH_REQUEUE, LAUNCH_CHAIN_NONE }; /* launch.chain.mode */

typedef struct launch_site_config {
    const char *name, *conf, *host, *time, *account, *partition, *env, *dir, *weft;
    weft_strlist ssh, extra, set;
    int64_t nodes, tasks_per_node, cpus_per_task, gpus_per_node, spares, cells, min_nodes, lead_s;
    int driver;
} launch_site_config;

typedef struct launch_config {
    int64_t min_sites, start_window_s;
    int on_window;
    struct {
        const char *site, *listen, *advertise;
    } hub;
    struct {
        int mode;
        int64_t max_generations, no_progress;
    } chain;
    struct {
        const char *name;
    } run;
    launch_site_config site[LAUNCH_SITES];
    size_t nsites;
    int home; /* the site whose supervisor runs the hub; -1: one site alone, no hub */

    char *path, *text; /* the run file and its bytes */
    size_t ntext;
    const char **set; /* --set of the training's keys, for all sites */
    size_t nset;
    char id[9]; /* of this run: 8 hex digits, the same from anywhere, so that jobs are found again */
    struct {
        char name[LAUNCH_MEMBER];
        size_t site;
        int64_t cell; /* from 1; 0: the whole site */
    } member[LAUNCH_MEMBERS];
    size_t nmembers;
    weft_config *config;
    weft_config_key *keys; /* of this file */
    void *names;
} launch_config;

/* Reads and checks. Sets that begin with "launch." are for this section, others are kept for the training. CONFIG names
 * file, line, key and what would work; NOTFOUND, NOMEM. Free with launch_config_free. Any thread. */
weft_status launch_config_load(const char *path, const char *const *sets, size_t nsets, launch_config **out);
/* The same from memory; the fuzz target's entry. */
weft_status launch_config_parse(const char *name, const char *text, size_t n, const char *const *sets,
                                size_t nsets, launch_config **out);
void launch_config_free(launch_config *c);
/* Every key with type, default and meaning, for --keys; free with free(). */
char *launch_config_help(void);

/* "weft:RUN-ID:SITE": what the comments of a site's jobs begin with; ":GENERATION" follows. */
void launch_prefix(const launch_config *c, size_t site, char prefix[LAUNCH_PREFIX]);
/* weft-ID8-SITE: the name of its jobs. */
void launch_job_name(const launch_config *c, size_t site, char name[64]);

#endif
