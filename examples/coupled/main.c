/* A simulation and a training job in the same ranks: how long do the simulation's 8-byte reductions take, alone and
 * while gradients flow, with weft and with plain MPI?
 *
 * Four copies of the simulation (examples/shallow_water) take turns of some steps each in one run, so that all see the
 * same machine: weft and MPI alone, weft beside its bulk, MPI beside MPI_Iallreduce. A step begins with the reduction of the time
 * step and ends with `dots` more of 8 bytes, one after the other, as an implicit solver makes them.
 *
 * With --checkpoint only weft beside its bulk runs; a model learns from the gradients, and both are saved and taken up
 * again together. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../shallow_water/checkpoint.h"
#include "../shallow_water/solver.h"
#include "model.h"
#include "stream.h"

#define SAMPLES_MAX 2000000
#define MODES       4
#define LEARNS      2 /* the mode that --checkpoint runs */
#define BATCH       12 /* samples of a gradient, divided among the ranks: the sum is that of any number of them */

typedef struct options {
    int n, rounds, steps, dots, megabytes, tensors, budget, every, json, check, broken, forget;
    const char *checkpoint; /* directory; NULL: none */
} options;

typedef struct mode {
    const char *name;
    const comm_ops *ops;
    comm_ops timed;
    const stream_ops *training; /* NULL: alone */
    sw_solver sim;
    stream *stream;
    model model; /* these two with --checkpoint */
    sw_checkpoint *checkpoint;
    float *us, *step_us; /* a sample a reduction, a sample a step */
    int samples, steps;
    double seconds, bytes;
    uint64_t checksum;
} mode;

static int rank, ranks;

/* --- the training side ----------------------------------------------------------------------------------------- */

/* Of the samples that are rank r's, of n. Small whole numbers: sums of them are exact in any order. */
static float gradient(int r, int n, int round, int i) {
    int sum = 0;
    for (int sample = r; sample < BATCH; sample += n) sum += (sample + 1) * (i % 5 + 1) + round % 3;
    return (float)sum;
}

static void write_tensor(const options *o, mode *m, int i, int round) {
    float *x = m->training->tensor(m->stream, i);
    const size_t n = ((size_t)o->megabytes << 20) / sizeof(float) / (size_t)o->tensors;
    const float v = gradient(rank, ranks, round, i) + (float)(o->broken && !rank);
    for (size_t k = 0; k < n; k++) x[k] = v;
}

/* Every value of the sum, of one tensor a round. */
static int right(const options *o, mode *m, int round) {
    const size_t n = ((size_t)o->megabytes << 20) / sizeof(float) / (size_t)o->tensors;
    const int i = round % o->tensors;
    const float *x = m->training->tensor(m->stream, i);
    const float want = gradient(0, 1, round, i);
    for (size_t k = 0; k < n; k++)
        if (x[k] != want) {
            fprintf(stderr, "coupled: rank %d: gradient %zu of tensor %d is %g, expected %g\n", rank, k, i,
                    (double)x[k], (double)want);
            return 0;
        }
    return 1;
}

/* --- the simulation -------------------------------------------------------------------------------------------- */

static mode *running;

/* The carrier's minimum, timed: the time step's, and the dots'. */
static int timed_min(comm *c, double *x) {
    mode *m = running;
    const double begun = MPI_Wtime();
    const int failed = m->ops->min(c, x);
    if (m->samples < SAMPLES_MAX) m->us[m->samples++] = (float)((MPI_Wtime() - begun) * 1e6);
    return failed;
}

static int dots(const options *o, mode *m) {
    for (int i = 0; i < o->dots; i++) {
        double least = rank + 1;
        if (timed_min(m->sim.comm, &least)) return -1;
        if (least != 1) {
            fprintf(stderr, "coupled: a minimum is %g, expected 1\n", least);
            return -1;
        }
    }
    return 0;
}

/* A turn: some steps; a gradient that becomes final tensor by tensor in the first half of them. */
static int turn(const options *o, mode *m, int round) {
    const double begun = MPI_Wtime();
    running = m;
    const int half = (o->steps + 1) / 2;
    int given = 0;
    if (m->training && m->training->begin(m->stream)) return -1;
    for (int i = 0; i < o->steps; i++) {
        double dt;
        for (const int due = m->training ? (i + 1) * o->tensors / half : 0; given < due && given < o->tensors;
             given++) {
            const int t = o->tensors - 1 - given;
            write_tensor(o, m, t, round);
            if (m->training->ready(m->stream, t)) return -1;
        }
        const double step = MPI_Wtime();
        if (sw_time_step(&m->sim, 1, &dt) || sw_step(&m->sim, dt) || dots(o, m)) return -1;
        m->step_us[m->steps++] = (float)((MPI_Wtime() - step) * 1e6);
        if (m->training && m->training->work(m->stream, o->budget)) return -1;
        if (m->checkpoint) sw_checkpoint_progress(m->checkpoint);
    }
    if (m->training) {
        if (m->training->end(m->stream) || !right(o, m, round)) return -1;
        m->bytes += (double)((size_t)o->megabytes << 20);
    }
    if (m->checkpoint) {
        sw_checkpoint_staged(m->checkpoint); /* the model of the last save may change now */
        model_learn(&m->model, m->training, m->stream);
    }
    m->seconds += MPI_Wtime() - begun;
    return 0;
}

/* --- checkpoints ------------------------------------------------------------------------------------------------- */

/* The model, and both from the newest checkpoint, if there is one. *round: the first to compute. */
static int take_up(const options *o, mode *m, int *round) {
    weft_ckpt_part part[MODEL_PARTS];
    const size_t each = ((size_t)o->megabytes << 20) / sizeof(float) / (size_t)o->tensors;
    char *state = NULL;
    int64_t step;
    double done = 0;
    if (model_open(&m->model, o->tensors, each, rank, ranks)) return -1;
    model_parts(&m->model, part);
    if (!(m->checkpoint = sw_checkpoint_open(&m->sim, o->checkpoint, part, MODEL_PARTS))) return -1;
    const int none = sw_checkpoint_load(m->checkpoint, &step, &state);
    const int failed = none < 0 || (!none && sw_checkpoint_number(state, "rounds", &done));
    free(state);
    *round = (int)done;
    if (o->forget)
        memset(m->model.velocity, 0, (size_t)o->tensors * (m->model.hi - m->model.lo) * sizeof(float));
    return -failed;
}

/* After `rounds` rounds: a checkpoint of the simulation and the model, if one is due. */
static int keep(const options *o, mode *m, int rounds) {
    char state[64];
    const int64_t step = (int64_t)rounds * o->steps;
    snprintf(state, sizeof state, "{\"rounds\": %d}", rounds);
    if (rounds >= o->rounds) return sw_checkpoint_last(m->checkpoint, step, state);
    if (rounds % o->every == 0) sw_checkpoint_begin(m->checkpoint, step, state);
    return 0;
}

/* --- results --------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double quantile(const float *sorted, int n, double q) {
    return n ? (double)sorted[(int)(q * (n - 1))] : 0;
}

static void print(const options *o, mode *m) { /* without the first turn */
    qsort(m->us, (size_t)m->samples, sizeof *m->us, by_value);
    qsort(m->step_us, (size_t)m->steps, sizeof *m->step_us, by_value);
    const double rate = m->seconds > 0 ? m->bytes / m->seconds * 1e-9 : 0;
    const double p50 = quantile(m->us, m->samples, 0.5), p99 = quantile(m->us, m->samples, 0.99);
    const double step50 = quantile(m->step_us, m->steps, 0.5), step99 = quantile(m->step_us, m->steps, 0.99);
    if (rank) return;
    if (o->json)
        printf("{\"mode\": \"%s\", \"ranks\": %d, \"samples\": %d, \"p50_us\": %.3f, \"p99_us\": %.3f, "
               "\"max_us\": %.1f, "
               "\"step_p50_us\": %.1f, \"step_p99_us\": %.1f, \"gradients_GB_s\": %.3f, \"checksum\": "
               "\"%016llx\"}\n",
               m->name, ranks, m->samples, p50, p99, quantile(m->us, m->samples, 1), step50, step99, rate,
               (unsigned long long)m->checksum);
    else
        printf("%-28s 8 bytes: p50 %7.2f p99 %9.2f max %9.1f us   step: p50 %7.0f p99 %8.0f us   gradients "
               "%5.2f GB/s\n",
               m->name, p50, p99, quantile(m->us, m->samples, 1), step50, step99, rate);
    fflush(stdout);
}

/* --- main ------------------------------------------------------------------------------------------------------ */

static void usage(FILE *to) {
    fprintf(
        to,
        "The simulation's 8-byte reductions, alone and while gradients flow, by weft and by plain MPI.\n"
        "  mpirun -n RANKS coupled [OPTIONS]\n"
        "  --n CELLS        of the simulation, along x (48)\n"
        "  --rounds COUNT   turns of each of the four modes (20)\n"
        "  --steps COUNT    time steps of a turn (16)\n"
        "  --dots COUNT     8-byte reductions after a step (20)\n"
        "  --mb MEGABYTES   of the gradient (64)\n"
        "  --tensors COUNT  in it (16)\n"
        "  --budget USEC    for training after each step (0)\n"
        "  --checkpoint DIR only weft while gradients flow, and a model that learns from them; saves both\n"
        "                   there, and goes on from the newest that is there\n"
        "  --every ROUNDS   between checkpoints (5)\n"
        "  --json           one JSON object a mode\n"
        "  --check          exit 1 unless all modes end in the same state\n"
        "  --help\n");
}

typedef struct number {
    const char *name;
    int *value, least, most;
} number;

/* argv[*i] and its value. */
static int read_number(const number *known, int argc, char **argv, int *i) {
    while (known->name && strcmp(argv[*i], known->name)) known++;
    char *end = NULL;
    const long v = known->name && *i + 1 < argc ? strtol(argv[++*i], &end, 10) : 0;
    if (end && !*end && v >= known->least && v <= known->most) return *known->value = (int)v, 0;
    if (!rank) fprintf(stderr, "coupled: '%s' is unknown or has no good value; see --help\n", argv[*i]);
    return -1;
}

static int read_options(int argc, char **argv, options *o) {
    *o =
        (options){.n = 48, .rounds = 20, .steps = 16, .dots = 20, .megabytes = 64, .tensors = 16, .every = 5};
    const number known[] = {{"--n", &o->n, 8, 4096},
                            {"--rounds", &o->rounds, 2, 10000},
                            {"--steps", &o->steps, 1, 10000},
                            {"--dots", &o->dots, 1, 10000},
                            {"--mb", &o->megabytes, 1, 4096},
                            {"--tensors", &o->tensors, 1, 256},
                            {"--every", &o->every, 1, 10000},
                            {"--budget", &o->budget, 0, 1000000},
                            {0}};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--help") == 0) return 1;
        if (strcmp(a, "--json") == 0)
            o->json = 1;
        else if (strcmp(a, "--check") == 0)
            o->check = 1;
        else if (strcmp(a, "--break") == 0 && i + 1 < argc && strcmp(argv[i + 1], "gradient") == 0)
            o->broken = ++i;
        else if (strcmp(a, "--break") == 0 && i + 1 < argc && strcmp(argv[i + 1], "momentum") == 0)
            o->forget = ++i;
        else if (strcmp(a, "--checkpoint") == 0 && i + 1 < argc)
            o->checkpoint = argv[++i];
        else if (read_number(known, argc, argv, &i))
            return -1;
    }
    return 0;
}

static int open_mode(const options *o, mode *m) {
    const size_t each = ((size_t)o->megabytes << 20) / sizeof(float) / (size_t)o->tensors;
    m->us = malloc(sizeof *m->us * SAMPLES_MAX);
    m->timed = *m->ops;
    m->timed.min = timed_min;
    m->step_us = malloc(sizeof *m->step_us * (size_t)o->rounds * (size_t)o->steps);
    if (!m->us || !m->step_us ||
        sw_open(&m->sim, sw_case_find("bowl"), o->n, &m->timed, MPI_COMM_WORLD, SW_WHOLE))
        return -1;
    if (!m->training) return 0;
    m->stream = m->training->open(m->sim.comm, o->tensors, each);
    return m->stream ? 0 : -1;
}

static int run(const options *o, mode *all) {
    mode *m = o->checkpoint ? &all[LEARNS] : all;
    const int modes = o->checkpoint ? 1 : MODES;
    int first = 0;
    for (int k = 0; k < modes; k++)
        if (open_mode(o, &m[k])) return -1;
    if (o->checkpoint && take_up(o, m, &first)) return -1;
    for (int round = first; round < o->rounds; round++)
        for (int k = 0; k < modes; k++) {
            MPI_Barrier(MPI_COMM_WORLD);
            if (turn(o, &m[k], round) || (m[k].checkpoint && keep(o, &m[k], round + 1))) return -1;
            if (round > first) continue;
            m[k].samples = m[k].steps = 0; /* the first turn warms up */
            m[k].seconds = m[k].bytes = 0;
        }
    int bad = 0;
    for (int k = 0; k < modes; k++) {
        if (sw_checksum(&m[k].sim, &m[k].checksum)) return -1;
        print(o, &m[k]);
        bad |= m[k].checksum != m[0].checksum;
    }
    if (bad && !rank) fprintf(stderr, "coupled: the modes end in different states\n");
    for (int k = 0; k < modes; k++) {
        sw_checkpoint_close(m[k].checkpoint);
        if (o->checkpoint) model_close(&m[k].model);
        if (m[k].stream) m[k].training->close(m[k].stream);
        if (sw_close(&m[k].sim)) return -1;
        free(m[k].us);
        free(m[k].step_us);
    }
    return o->check && bad ? 1 : 0;
}

int main(int argc, char **argv) {
    static mode m[MODES] = {
        {.name = "weft, alone", .ops = &comm_weft},
        {.name = "MPI, alone", .ops = &comm_mpi},
        {.name = "weft, while gradients flow", .ops = &comm_weft, .training = &stream_weft},
        {.name = "MPI, while gradients flow", .ops = &comm_mpi, .training = &stream_mpi}};
    options o;
    int level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const int wrong = read_options(argc, argv, &o);
    if (wrong && !rank) usage(wrong > 0 ? stdout : stderr);
    const int failed = wrong ? 0 : run(&o, m);
    if (failed < 0) MPI_Abort(MPI_COMM_WORLD, 1); /* the others may be waiting */
    MPI_Finalize();
    return wrong < 0 ? 64 : failed;
}
