/* From names of the registry to families; see families.h.
 *
 * A name is STEM or STEM/PART. The stem becomes the family, the part a label, so that the parts of one thing (losses,
 * phases of a step, lanes) are one family, as monitoring systems want them. Letters that a family may not have become
 * '_', and then the label "name" keeps two such names apart. */
#include "io/metrics/families.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#include "io/metrics/metrics.h"

/* What is known about the trainer's own metrics; others get a general word. */
static const struct {
    const char *stem, *key, *help, *family; /* family: NULL: from the stem */
} known[] = {
    {"loss", "data", "Loss of the last record, nats per token.", NULL},
    {"bpb", "data", "Bits per byte of text.", NULL},
    {"tokens_per_s", NULL, "Tokens trained on per second, all ranks.", "weft_tokens_per_second"},
    {"mfu", NULL, "Model flops over the measured peak of all ranks.", NULL},
    {"grad_norm", NULL, "Norm of the gradient before clipping.", NULL},
    {"lr", NULL, "Learning rate.", NULL},
    {"router", "figure",
     "Routers of experts: balance and z loss (means over tokens and layers), busiest expert over mean.",
     NULL},
    {"time", "part", "Time of the last recorded step by part, rank 0.", NULL},
    {"lane_ops", "lane", "Operations that rank 0 completed on a lane of the engine.", NULL},
    {"lane_bytes", "lane", "Payload of the operations of a lane, rank 0.", NULL},
    {"lane_p50", "lane", "Median time of an operation of a lane, rank 0.", NULL},
    {"lane_p99", "lane", "99th percentile of the time of an operation of a lane, rank 0.", NULL},
    {"lane_max", "lane", "Longest time of an operation of a lane, rank 0.", NULL},
    {"gpu_power", NULL, "Power that rank 0's GPU draws.", NULL},
    {"gpu_energy", NULL, "Energy that rank 0's GPU has used since this process began to train.", NULL},
    {"gpu_sm_clock", NULL, "Clock of the multiprocessors of rank 0's GPU.", NULL},
    {"gpu_memory_clock", NULL, "Clock of the memory of rank 0's GPU.", NULL},
    {"gpu_temperature", NULL, "Temperature of rank 0's GPU.", NULL},
};

static const char *unit_word(const char *unit) {
    if (!unit) return NULL;
    return !strcmp(unit, "s")       ? "seconds"
           : !strcmp(unit, "bytes") ? "bytes"
           : !strcmp(unit, "nats")  ? "nats"
           : !strcmp(unit, "W")     ? "watts"
           : !strcmp(unit, "J")     ? "joules"
           : !strcmp(unit, "Hz")    ? "hertz"
           : !strcmp(unit, "C")     ? "celsius"
                                    : NULL;
}

static void place_metric(uint32_t id, struct family_place *p) {
    const char *name = metric_name(id), *slash = strchr(name, '/');
    size_t stem = slash ? (size_t)(slash - name) : strlen(name), n = 0;
    memset(p, 0, sizeof *p);
    memcpy(p->name, "weft_", 5);
    for (n = 5; n - 5 < stem; n++) {
        const char c = name[n - 5];
        p->name[n] = isalnum((unsigned char)c) ? c : '_';
        p->renamed |= p->name[n] != c;
    }
    p->value = slash ? slash + 1 : NULL;
    p->unit = unit_word(metric_unit(id));
    p->key = "of";
    p->help = "A metric of the run.";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].stem) != stem || memcmp(known[i].stem, name, stem) != 0) continue;
        if (known[i].key) p->key = known[i].key;
        p->help = known[i].help;
        if (known[i].family) {
            strcpy(p->name, known[i].family);
            p->renamed = 0;
        }
    }
}

static int same_family(const struct family_place *a, const struct family_place *b) {
    return !strcmp(a->name, b->name) && a->unit == b->unit;
}

static void place_new(family_map *f) {
    for (const uint32_t n = metric_count(); f->known < n; f->known++) {
        const uint32_t id = f->known;
        place_metric(id, &f->place[id]);
        f->first[id] = 0;
        while (!same_family(&f->place[f->first[id]], &f->place[id])) f->first[id]++;
    }
}

static void sample(om_text *o, const struct family_place *p, uint32_t id, double v) {
    om_label label[2];
    int n = 0;
    if (p->value) label[n++] = (om_label){p->key, p->value};
    if (p->renamed) label[n++] = (om_label){"name", metric_name(id)};
    om_sample(o, label, n, v);
}

void families_render(family_map *f, om_text *o) {
    place_new(f);
    for (uint32_t first = 0; first < f->known; first++) {
        int begun = 0;
        if (f->first[first] != first) continue;
        const struct family_place *p = &f->place[first];
        for (uint32_t id = first; id < f->known; id++) {
            const double v = f->first[id] == first ? metric_last(id) : (double)NAN;
            if (!isfinite(v)) continue;
            if (!begun++)
                om_family(o, metric_kind(first) == WEFT_METRIC_COUNTER ? OM_COUNTER : OM_GAUGE, p->name,
                          p->unit, p->help);
            sample(o, &f->place[id], id, v);
        }
    }
}
