/* Which backend computes: a processor's or a device's (run.device), and what a run on a device has to fit into.
 *
 * On a device all planned memory is the device's; the host keeps tokens, losses and small results (runtime/model/mirror.h),
 * and a rank has one device: that of its place among the ranks of its node, counted round. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/nccl/device.h"
#include "runtime/model/mirror.h"
#include "runtime/train/internal.h"
#include "runtime/train/threads.h"

#define MIB 1048576.0

const char *trainer_device(const weft_trainer *t) {
    static const char *const names[] = {"auto", "cpu", "ref", "cuda"};
    return names[t->c->run.device];
}

const char *trainer_host(const weft_trainer *t) {
    weft_backend_desc d;
    if (weft_backend_info(t->backend, &d) < 0 || d.device) return "host";
    return strcmp(d.name, "ref") == 0 ? "ref" : "cpu";
}

/* Ranks that share a GPU are for tests: nobody gets them without having asked. */
static weft_status rather_cpu(weft_trainer *t) {
    weft_backend_desc d;
    WEFT_TRY(weft_backend_info(t->backend, &d));
    if (strcmp(trainer_device(t), "auto") != 0 || !d.device || t->o.sharing <= d.devices) return WEFT_OK;
    if (t->rank == 0)
        weft_warn("run.device: auto: cpu, because %d ranks of this node have %d GPU%s; run.device: cuda "
                  "shares them",
                  t->o.sharing, d.devices, d.devices == 1 ? "" : "s");
    const weft_backend_opts bo = {.size = sizeof bo};
    weft_backend_close(t->backend);
    t->backend = NULL;
    return weft_backend_open("cpu", &bo, &t->backend);
}

weft_status trainer_open_backend(weft_trainer *t) {
    const weft_backend_opts bo = {.size = sizeof bo, .device = t->o.place, .round = 1};
    WEFT_TRY_CTX(weft_backend_open(trainer_device(t), &bo, &t->backend), "run.device: %s", trainer_device(t));
    WEFT_TRY(rather_cpu(t));
    t->ops = weft_backend_ops(t->backend);
    t->threads = t->c->run.threads ? (int)t->c->run.threads : weft_default_threads(t->o.sharing);
    char text[256];
    if (weft_misbound(t->threads, t->o.sharing > 0 ? t->o.sharing : 1, text, sizeof text))
        weft_warn("%s", text);
    return WEFT_OK;
}

/* --- what runs on a device ------------------------------------------------------------------------------------------- */

weft_status trainer_check_layout(const weft_trainer *t, int device) {
    const weft_layout *l = &t->layout;
    const struct {
        const char *key;
        int64_t is, may;
    } no[] = {{"layout.tp", l->size[WEFT_AXIS_TP], 1},
              {"layout.pp", l->size[WEFT_AXIS_PP], 1},
              {"layout.cp", l->size[WEFT_AXIS_CP], 1},
              {"layout.ep", l->ep, 1},
              {"layout.chunks", l->chunks, 1}};
    if (!device) return WEFT_OK;
    if (l->ranks > 1 && !device_built())
        return weft_fail(
            WEFT_ERR_UNSUPPORTED,
            "this weft was built without NCCL's header, so GPUs of several ranks cannot meet: build it with "
            "nccl.h (-DWEFT_NCCL_INCLUDE=DIR), take one rank, or set run.device: cpu");
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (no[i].is > no[i].may)
            return weft_fail(WEFT_ERR_CONFIG,
                             "%s is %lld, but on GPUs ranks share the batch only (layout.dp): set %s to %lld "
                             "and leave the "
                             "other ranks to layout.dp, or set run.device: cpu, which has every layout",
                             no[i].key, (long long)no[i].is, no[i].key, (long long)no[i].may);
    return WEFT_OK;
}

/* Gradients of ranks are added by NCCL, in an order of its own where there are more than two. */
weft_status trainer_check_sums(const weft_trainer *t, int device) {
    const char *nccl = getenv("WEFT_NCCL");
    if (!device || !t->c->train.reproducible || t->layout.data <= 2 || (nccl && !strcmp(nccl, "off")))
        return WEFT_OK;
    return weft_fail(
        WEFT_ERR_CONFIG,
        "train.reproducible: NCCL adds the gradients of %d ranks in an order of its own; set "
        "WEFT_NCCL=off for all ranks (gradients then go through host memory, in one fixed tree), "
        "take two ranks, or set train.reproducible: false",
        t->layout.data);
}

/* ", or ": the next of a list of things that would help. */
static size_t also(char *text, size_t bytes, size_t at, const char *what) {
    if (at >= bytes) return at;
    return at + (size_t)snprintf(text + at, bytes - at, "%s%s", at ? "; or " : "", what);
}

weft_status trainer_check_fit(const weft_trainer *t) {
    const weft_run_config *c = t->c;
    const double planned = (double)t->memory.bytes + (double)t->scratch;
    weft_backend_desc d;
    char help[512] = "", micro[96];
    size_t at = 0;
    WEFT_TRY(weft_backend_info(t->backend, &d));
    if (!d.device || planned <= (double)d.memory) return WEFT_OK;
    snprintf(micro, sizeof micro, "train.micro_batch below %lld", (long long)t->layout.micro_batch);
    if (t->layout.micro_batch > 1) at = also(help, sizeof help, at, micro);
    if (c->train.recompute != WEFT_RECOMPUTE_LAYER)
        at = also(help, sizeof help, at, "train.recompute: layer");
    if (!c->train.dtype) at = also(help, sizeof help, at, "train.dtype: bf16");
    at = also(help, sizeof help, at, "a smaller train.context or model");
    (void)also(help, sizeof help, at, "run.device: cpu");
    return weft_fail(WEFT_ERR_NOMEM,
                     "this run plans %.0f MiB on %s, which has %.0f; what would help: %s (weft info --plan "
                     "shows what takes the memory)",
                     planned / MIB, d.model, (double)d.memory / MIB, help);
}

void trainer_arithmetic(const weft_backend_desc *d, char text[WEFT_ARITHMETIC]) {
    snprintf(text, WEFT_ARITHMETIC, d->device ? "%s %s" : "%s", d->name, d->isa);
}
