/* The keys of site.yaml. */
#include <stddef.h>
#include <string.h>

#include "runtime/launch/slurm_text.h"
#include "runtime/launch/supervise.h"
#include "runtime/launch/supervise_machine.h"

static const char *const chain_modes[] = {"none", "successor", "requeue", NULL};
static const char *const hub_places[] = {"none", "here", "away", NULL};

#define AT(field) offsetof(weft_supervise_config, field)
#define TEXT(name, field, def, doc)                                                                          \
    { name, WEFT_CONFIG_STRING, AT(field), def, 0, 0, NULL, doc }
#define LIST(name, field, doc)                                                                               \
    { name, WEFT_CONFIG_LIST, AT(field), NULL, 0, 0, NULL, doc }
#define WHOLE(name, field, def, lo, hi, doc)                                                                 \
    { name, WEFT_CONFIG_INT, AT(field), def, lo, hi, NULL, doc }
#define REAL(name, field, def, lo, hi, doc)                                                                  \
    { name, WEFT_CONFIG_FLOAT, AT(field), def, lo, hi, NULL, doc }
#define ENUM(name, field, def, names, doc)                                                                   \
    { name, WEFT_CONFIG_ENUM, AT(field), def, 0, 0, names, doc }
#define DAYS_S 31536000

const weft_config_key weft_supervise_keys[] = {
    TEXT("run", run, "run", "the run's name, for names and comments of jobs"),
    TEXT("site", site, "site", "this site's name"),
    TEXT("dir", dir, ".", "where the lock, the chain, the status and the logs are; shared by all nodes"),
    LIST("command", command, "the program and its arguments; {cell} stands for the number of the cell"),
    WHOLE("nodes", nodes, "0", 0, WEFT_SUPERVISE_NODES, "nodes to use; 0: all of the job"),
    WHOLE("tasks_per_node", tasks_per_node, "1", 1, 4096, "ranks of a node"),
    WHOLE("cpus_per_task", cpus_per_task, "0", 0, 4096, "processors of a rank; 0: as the job has it"),
    WHOLE("spares", spares, "0", 0, WEFT_SUPERVISE_NODES, "nodes kept back for those that die"),
    WHOLE("cells", cells, "1", 1, WEFT_SUPERVISE_CELLS,
          "MPI steps on nodes of their own; one that dies leaves the others running"),
    WHOLE("min_nodes", min_nodes, "1", 1, WEFT_SUPERVISE_NODES, "a cell runs on as many at least"),
    REAL("lead_s", lead_s, "120", 0, DAYS_S, "seconds before the time limit at which it stops, at least"),
    REAL("silent_s", silent_s, "3", 1, DAYS_S, "seconds without heartbeat after which a node is dead"),
    REAL("hang_s", hang_s, "60", 0, DAYS_S,
         "seconds without progress of any rank that are a hang, at least (8 steps if that is longer); 0: "
         "never"),
    REAL("start_s", start_s, "120", 0, DAYS_S,
         "seconds within which the ranks of a step speak, where they ever do; less once it is known how long "
         "that takes; "
         "0: any time"),
    REAL("answer_s", answer_s, "60", 1, DAYS_S,
         "seconds that agents may take to answer when they are started"),
    REAL("lock_s", lock_s, "300", 0, DAYS_S, "seconds to wait for the lock of the run"),
    REAL("poll_s", poll_s, "60", 1, 3600, "seconds between two questions to Slurm"),
    {"health", WEFT_CONFIG_BOOL, AT(health), "true", 0, 0, NULL,
     "check the nodes (weft health --quick) before each step"},
    TEXT("mpi", mpi, "pmix", "srun --mpi of the program"),
    TEXT("cpu_bind", cpu_bind, "none", "srun --cpu-bind of the program"),
    ENUM("chain.mode", chain.mode, "none", chain_modes,
         "what comes after a job that stopped with work left: nothing, a job submitted by this one, the same "
         "job again"),
    WHOLE("chain.max_generations", chain.max_generations, "50", 1, 1000000, "jobs of a chain"),
    WHOLE("chain.no_progress", chain.no_progress, "3", 0, 1000000,
          "jobs in a row without a new checkpoint that end the chain; 0: any number"),
    ENUM("hub.place", hub.place, "none", hub_places,
         "the hub of a run over several sites: none, beside this supervisor, at another site"),
    TEXT("hub.listen", hub.listen, "0.0.0.0:0", "where the hub listens"),
    TEXT("hub.advertise", hub.advertise, NULL, "what the others are told"),
    LIST("hub.sites", hub.sites, "sites that are invited"),
};
const size_t weft_supervise_nkeys = sizeof weft_supervise_keys / sizeof *weft_supervise_keys;

static weft_status checked(const weft_supervise_config *c) {
    if (!slurm_word_ok(c->run, 0) || !slurm_site_ok(c->site))
        return weft_fail(WEFT_ERR_CONFIG, "run '%.80s', site '%.80s': letters, digits, '_' and '-' expected",
                         c->run, c->site);
    if (!c->dir[0] || !slurm_word_ok(c->dir, 0))
        return weft_fail(WEFT_ERR_CONFIG, "dir '%.200s': a path of letters, digits and _./:=,@%%+- expected",
                         c->dir);
    if (!c->command.n)
        return weft_fail(
            WEFT_ERR_CONFIG,
            "which program? Either `command` in the file, or weft supervise [OPTION...] -- PROGRAM ARGS");
    if (c->nodes && c->nodes < c->spares + c->cells)
        return weft_fail(WEFT_ERR_CONFIG, "%lld nodes are not enough for %lld cells and %lld spares",
                         (long long)c->nodes, (long long)c->cells, (long long)c->spares);
    return WEFT_OK;
}

weft_status weft_supervise_load(const char *path, const char *const *sets, size_t nsets,
                                const char *const *program, weft_supervise_config *c, weft_config **config) {
    memset(c, 0, sizeof *c);
    WEFT_TRY(weft_config_load(path, sets, nsets, weft_supervise_keys, weft_supervise_nkeys, c, config));
    if (program && program[0]) {
        c->command.item = (const char **)(uintptr_t)program;
        for (c->command.n = 0; program[c->command.n];) c->command.n++;
    }
    const weft_status s = checked(c);
    if (s >= 0) return s;
    weft_config_destroy(*config);
    *config = NULL;
    return path ? weft_context(s, "%s", path) : s;
}
