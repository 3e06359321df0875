/* Threads and cores of a rank; see threads.h. */
#include "runtime/train/threads.h"

#include <sched.h>
#include <stdio.h>
#include <unistd.h>

/* The first of the core's threads that is in `set`; cpu itself where the system does not tell. */
static int first_of_core(int cpu, const cpu_set_t *set) {
    char path[96], list[256] = "";
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "r");
    if (!f) return cpu;
    if (!fgets(list, sizeof list, f)) list[0] = 0;
    fclose(f);
    for (int at = 0, n = 0, from = 0; sscanf(list + at, "%d%n", &from, &n) == 1;) { /* "0,64", "0-1" */
        int to = from;
        at += n;
        if (sscanf(list + at, "-%d%n", &to, &n) == 1) at += n;
        for (int i = from; i <= to && i < CPU_SETSIZE; i++)
            if (CPU_ISSET(i, set)) return i;
        if (list[at++] != ',') break;
    }
    return cpu;
}

int weft_allowed_cores(void) {
    cpu_set_t set;
    int cores = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    for (int i = 0; i < CPU_SETSIZE; i++) cores += CPU_ISSET(i, &set) && first_of_core(i, &set) == i;
    return cores > 0 ? cores : 1;
}

int weft_default_threads(int sharing) {
    int each = weft_allowed_cores() / (sharing > 0 ? sharing : 1);
    return each > 0 ? each : 1;
}

int weft_misbound(int threads, int sharing, char *text, size_t size) {
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int cores = weft_allowed_cores();
    if (sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) >= online) return 0; /* not bound */
    if ((long)threads * sharing <= cores) return 0;
    snprintf(text, size,
             "%d rank%s of %d thread%s bound to the same %d of %ld processors and will wait for each other; "
             "mend: mpirun --bind-to none, or --map-by slot:PE=%d for cores of its own for each rank",
             sharing, sharing > 1 ? "s" : "", threads, threads > 1 ? "s are" : " is", cores, online, threads);
    return 1;
}
