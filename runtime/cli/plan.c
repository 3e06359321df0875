/* weft info --plan: bytes by part and communication of a step, of each pipeline stage of a run file's layout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "runtime/cli/cli.h"
#include "runtime/train/trainer.h"

#define MIB 1048576.0

typedef struct row {
    const char *name;
    weft_traffic (*of)(const weft_plan *p);
} row;

static weft_traffic of_data(const weft_plan *p) {
    return p->data;
}
static weft_traffic of_tensor(const weft_plan *p) {
    return p->tensor;
}
static weft_traffic of_sequence(const weft_plan *p) {
    return p->sequence;
}
static weft_traffic of_experts(const weft_plan *p) {
    return p->experts;
}
static weft_traffic of_stage(const weft_plan *p) {
    return p->stage;
}
static const row rows[] = {{"gradients, weights", of_data},
                           {"layers (tp)", of_tensor},
                           {"sequences (cp)", of_sequence},
                           {"experts (ep), even", of_experts},
                           {"stages (pp), sent", of_stage}};
#define ROWS (sizeof rows / sizeof *rows)

static json_t *json_of(const weft_plan *p, int stage) {
    json_t *parts = json_object(), *traffic = json_object();
    for (int i = 0; i < p->memory.nparts; i++)
        json_object_set_new(parts, p->memory.part[i].name, json_integer((json_int_t)p->memory.part[i].bytes));
    for (size_t i = 0; i < ROWS; i++) {
        const weft_traffic t = rows[i].of(p);
        json_object_set_new(
            traffic, rows[i].name,
            json_pack("{s:I, s:I}", "count", (json_int_t)t.count, "bytes", (json_int_t)t.bytes));
    }
    const size_t bytes = p->memory.bytes + p->memory.outside;
    return json_pack("{s:i, s:I, s:I, s:o, s:o}", "stage", stage, "parameters", (json_int_t)p->held, "bytes",
                     (json_int_t)bytes, "parts", parts, "traffic", traffic);
}

/* Of the first stage, which has most; what a rank has on the device. */
static json_t *json_device(const weft_plan *p) {
    if (!p->by.device) return json_null();
    const size_t planned = p->memory.bytes + p->scratch;
    return json_pack("{s:s, s:s, s:I, s:I, s:b}", "backend", p->by.name, "model", p->by.model, "memory",
                     (json_int_t)p->by.memory, "planned", (json_int_t)planned, "fits",
                     p->by.memory && planned <= p->by.memory);
}

static void print_device(const weft_plan *p) {
    const double planned = (double)(p->memory.bytes + p->scratch) / MIB, has = (double)p->by.memory / MIB;
    if (!p->by.device) return;
    printf("device        %.2f MiB of a rank lie on the GPU; ", planned);
    if (p->by.memory)
        printf("%s has %.0f: %s\n", p->by.model, has,
               planned <= has ? "it fits"
                              : "IT DOES NOT FIT (smaller train.micro_batch, train.recompute: layer, bf16)");
    else
        printf("there is none here to compare with\n");
}

static int print_json(const weft_plan *p, int stages) {
    char text[256];
    json_t *list = json_array();
    weft_layout_text(&p->layout, text, sizeof text);
    for (int s = 0; s < stages; s++) json_array_append_new(list, json_of(&p[s], s));
    return cli_json_print(json_pack("{s:s, s:i, s:I, s:o, s:o}", "layout", text, "ranks", p->layout.ranks,
                                    "parameters", (json_int_t)p->parameters, "device", json_device(p),
                                    "stages", list));
}

static double part(const weft_plan *p, const char *name) {
    for (int i = 0; i < p->memory.nparts; i++)
        if (!strcmp(p->memory.part[i].name, name)) return (double)p->memory.part[i].bytes;
    return 0;
}

static void print_text(const weft_plan *p, int stages) {
    const weft_layout *l = &p->layout;
    char text[256];
    weft_layout_text(l, text, sizeof text);
    printf("layout        %s on %d rank%s; a step is %lld micro-batches of %lld, %lld a rank\n", text,
           l->ranks, l->ranks == 1 ? "" : "s", (long long)l->micro_total, (long long)l->micro_batch,
           (long long)l->micro_count);
    if (p->pipeline[0]) printf("pipeline      %s\n", p->pipeline);
    printf("parameters    %.3f M\n", (double)p->parameters * 1e-6);
    print_device(p);
    printf("\n%-22s", "MiB of a rank");
    for (int s = 0; s < stages; s++) printf("  stage %-4d", s);
    for (int i = 0; i < p->memory.nparts; i++) {
        printf("\n%-22s", p->memory.part[i].name);
        for (int s = 0; s < stages; s++) printf("%12.2f", part(&p[s], p->memory.part[i].name) / MIB);
    }
    printf("\n%-22s", "in all");
    for (int s = 0; s < stages; s++)
        printf("%12.2f", (double)(p[s].memory.bytes + p[s].memory.outside) / MIB);
    printf("\n\n%-22s", "MiB of a step");
    for (size_t i = 0; i < ROWS; i++) {
        printf("\n%-22s", rows[i].name);
        for (int s = 0; s < stages; s++) printf("%12.2f", (double)rows[i].of(&p[s]).bytes / MIB);
        printf("  in");
        for (int s = 0; s < stages; s++) printf(" %llu", (unsigned long long)rows[i].of(&p[s]).count);
    }
    printf("\n\nNot in it: a tied table of a pipeline (one sum a step), batches and scratch of the kernels "
           "(a few MiB), staging of checkpoints, MPI.\n"
           "Bytes of a step are those of the tensors of each collective; a sum over n ranks sends 2 (n - 1) "
           "/ n of them.\n");
}

int cli_plan(const char *file, const char *const *sets, size_t nsets, int ranks, int json) {
    weft_run_config c;
    weft_config *config = NULL;
    weft_plan *p = NULL;
    int stages = 0, rc = 0;
    weft_status s = weft_run_config_load(file, sets, nsets, &c, &config);
    if (s >= 0 && c.layout.automatic)
        s = weft_fail(WEFT_ERR_CONFIG,
                      "layout.auto looks at the machine that a run is on; to plan a layout, name it: "
                      "--set layout.auto=false --set layout.zero=1, for one");
    if (s >= 0) {
        stages = (int)c.layout.pp;
        p = weft_calloc((size_t)stages, sizeof *p);
        s = p ? WEFT_OK : WEFT_ERR_NOMEM;
    }
    for (int i = 0; s >= 0 && i < stages; i++) {
        const int all = ranks ? ranks : i ? p[0].layout.ranks : 0;
        s = weft_plan_rank(&c, ranks, all / stages * i, &p[i]);
    }
    if (s < 0)
        rc = cli_fail(s);
    else if (json)
        rc = print_json(p, stages);
    else
        print_text(p, stages);
    free(p);
    weft_config_destroy(config);
    return rc;
}
