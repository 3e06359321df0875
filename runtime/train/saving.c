/* When a run saves, and what it does when it must go back.
 *
 * A save begins at the end of a step and goes on while the next ones are computed; only their update waits until the
 * memory is staged. A save that fails costs an event and a warning: the checkpoints before are untouched, and the next is
 * tried at its time. Without save.every the time between two saves follows from what one was measured to cost:
 * max(sqrt(2 C M), C / x, L) with C the exposed seconds, M save.mtbf, x the share of the time that saving may take, L how
 * long a save takes (Young 1974, Daly 2006). Everything is decided from numbers that all ranks share. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/checkpoint/dir.h"
#include "runtime/train/internal.h"

#define FIRST_S 60.0 /* of training before the first save whose cost is not known yet */
#define SHARE   0.02 /* of the time that saves may cost */

static weft_status has_checkpoint(const weft_trainer *t, int *has) {
    ckpt_entry *list = NULL;
    size_t n = 0;
    weft_status s = t->rank == 0 ? ckpt_list(t->checkpoints, &list, &n) : WEFT_OK;
    int32_t found = n > 0;
    free(list);
    WEFT_TRY(weft_ctrl_agree(t->o.group, s));
    s = weft_ctrl_bcast(t->o.group, &found, sizeof found, 0);
    *has = found;
    return s;
}

weft_status trainer_saving_open(weft_trainer *t) {
    const weft_run_config *c = t->c;
    const weft_saver_opts o = {.model = t->model,
                               .shards = t->shards,
                               .optim = t->optim,
                               .t = c->train.dtype ? WEFT_BF16 : WEFT_F32,
                               .sites = t->outer.sites,
                               .tokenizer = c->data.tokenizer,
                               .config = weft_config_dump(t->config),
                               .ckpt = {.files = (int)c->save.files,
                                        .keep = c->save.keep,
                                        .keep_every = c->save.keep_every,
                                        .staging = (size_t)c->save.staging << 20}};
    t->saving.rolled_back = t->saving.saved = -1;
    int old = 0;
    if (!c->save.resume) WEFT_TRY(has_checkpoint(t, &old));
    if (old) /* its later steps would count as the newest, and ours be pruned */
        return weft_fail(
            WEFT_ERR_CONFIG,
            "save.resume is false, but there are checkpoints: remove %s or choose another run.dir",
            t->checkpoints);
    WEFT_TRY_CTX(weft_saver_open(t->o.group, t->checkpoints, &o, &t->saver), "%s", t->checkpoints);
    if (!c->save.async) return WEFT_OK;
    WEFT_TRY(weft_saver_plan(t->saver));
    weft_arena_note(&t->memory, "checkpoint staging", weft_ckpt_staging(weft_saver_ckpt(t->saver)));
    return WEFT_OK;
}

static void report(weft_trainer *t, weft_status s, const weft_ckpt_info *i, const char *mode) {
    char json[256];
    if (t->rank != 0) return;
    if (s < 0) {
        weft_warn("checkpoint of step %lld not written: %s", (long long)t->saving.begun, weft_last_error());
        snprintf(json, sizeof json, "\"step\":%lld,\"failed\":\"%s\"", (long long)t->saving.begun,
                 weft_status_name(s));
    } else
        snprintf(json, sizeof json,
                 "\"step\":%lld,\"seconds\":%.3f,\"exposed\":%.4f,\"bytes\":%lld,\"mode\":\"%s\"",
                 (long long)i->step, i->seconds, i->exposed, (long long)i->bytes, mode);
    trainer_event(t, s < 0 ? "checkpoint_failed" : "checkpoint", json);
}

/* A save ended. Returns errors of the group only: those of the disk are the save's. */
static weft_status ended(weft_trainer *t, weft_status s, const char *mode) {
    weft_ckpt_info i;
    const int lost = s <= WEFT_ERR_ORDER && s >= WEFT_ERR_LINK;
    if (!lost) (void)weft_ckpt_progress(weft_saver_ckpt(t->saver), &i);
    report(t, s, &i, mode);
    if (lost) return s;
    if (s >= 0) {
        double cost[2] = {i.exposed, i.seconds};
        WEFT_TRY(weft_ctrl_allreduce(t->o.group, cost, 2, WEFT_F64, WEFT_MAX));
        t->saving.saved = i.step;
        weft_job_saved(t->job, (uint64_t)i.step, i.seconds);
        t->saving.interval = fmax(fmax(sqrt(2 * cost[0] * t->c->save.mtbf), cost[0] / SHARE), cost[1]);
    }
    t->saving.begun = -1;
    t->saving.under_way = 0;
    if (t->outer.sites) weft_sites_hold(t->outer.sites, 0);
    return WEFT_OK;
}

/* Not between skipped steps: weights that may be what makes them skipped would push out the checkpoint that is to be gone
 * back to. Such a save comes after the next step that is not skipped. */
int trainer_save_due(weft_trainer *t) {
    const int64_t every = t->c->save.every;
    if (every > 0 && t->st.step % every == 0) t->saving.owed = 1;
    if (every == 0)
        t->saving.owed =
            t->st.elapsed - t->saving.at >= (t->saving.interval > 0 ? t->saving.interval : FIRST_S);
    if (t->st.guard.in_a_row) return 0;
    const int due = t->saving.owed;
    t->saving.owed = 0;
    return due;
}

/* What is read by a save under way may change from here on. Collective. */
weft_status trainer_staged(weft_trainer *t) {
    WEFT_TRY(weft_ckpt_staged(weft_saver_ckpt(t->saver), -1));
    if (t->outer.sites) weft_sites_hold(t->outer.sites, 0);
    return WEFT_OK;
}

static weft_status begin(weft_trainer *t, int wait) {
    char *stream = NULL;
    if (t->outer.sites) weft_sites_hold(t->outer.sites, 1);
    weft_status s = t->rank == 0 ? weft_data_state(t->data, &stream) : WEFT_OK;
    s = weft_ctrl_agree(t->o.group, s);
    t->saving.begun = t->st.step;
    t->saving.at = t->st.elapsed;
    if (s >= 0) s = weft_saver_begin(t->saver, &t->st, stream, wait);
    free(stream);
    return s;
}

weft_status trainer_save(weft_trainer *t) {
    if (t->saving.under_way) return WEFT_OK; /* still busy with the last one: the disk sets the pace */
    const int wait = !t->c->save.async;
    if (wait) trainer_phase(t, WEFT_JOB_SAVE);
    const weft_status s = begin(t, wait);
    trainer_phase(t, WEFT_JOB_STEP);
    if (s < 0 || wait) return ended(t, s, "sync");
    t->saving.under_way = 1;
    return WEFT_OK;
}

weft_status trainer_save_progress(weft_trainer *t) {
    if (!t->saving.under_way) return WEFT_OK;
    const weft_status s = weft_ckpt_progress(weft_saver_ckpt(t->saver), NULL);
    return s == WEFT_IN_PROGRESS ? WEFT_OK : ended(t, s, "async");
}

weft_status trainer_save_now(weft_trainer *t) {
    trainer_phase(t, WEFT_JOB_SAVE);
    if (t->saving.under_way) WEFT_TRY(ended(t, weft_ckpt_wait(weft_saver_ckpt(t->saver), NULL), "async"));
    if (t->saving.saved == t->st.step) return WEFT_OK;
    if (t->outer.sites) weft_sites_busy(t->outer.sites, 1);
    const weft_status s = begin(t, 1);
    if (t->outer.sites) weft_sites_busy(t->outer.sites, 0);
    char text[2048];
    snprintf(text, sizeof text, "%s", s < 0 ? weft_last_error() : "");
    trainer_phase(t, WEFT_JOB_STEP);
    WEFT_TRY(ended(t, s, "sync"));
    return s < 0 ? weft_fail(s, "%s", text) : s;
}

weft_status trainer_resume(weft_trainer *t) {
    char *stream = NULL;
    weft_status s = weft_saver_load(t->saver, &t->st, &stream);
    if (s == WEFT_ERR_NOTFOUND) return s;
    if (s >= 0) s = trainer_restore_data(t, stream);
    free(stream);
    if (s >= 0) {
        t->resumed_at = t->saving.saved = t->st.step;
        weft_job_saved(t->job, (uint64_t)t->st.step, 0);
        t->saving.at = t->st.elapsed;
    }
    return s;
}

/* The weights of the last checkpoint, but the data goes on behind what made the run diverge: the same samples would do so
 * again. Once for each checkpoint. */
weft_status trainer_roll_back(weft_trainer *t, const char *why) {
    const weft_train_state now = t->st;
    char json[256], *stream = NULL;
    if (t->outer.on) return trainer_outer_return(t, why);
    if (t->saving.under_way) WEFT_TRY(ended(t, weft_ckpt_wait(weft_saver_ckpt(t->saver), NULL), "async"));
    if (t->saving.saved < 0)
        return weft_fail(WEFT_ERR_DIVERGED,
                         "%lld steps in a row were skipped (%s), and there is no checkpoint to go back to "
                         "(save.every). Try a "
                         "smaller optim.lr, or a larger optim.guard if the data is to blame",
                         (long long)now.guard.in_a_row, why);
    if (t->saving.saved == t->saving.rolled_back)
        return weft_fail(WEFT_ERR_DIVERGED,
                         "%lld steps in a row were skipped (%s), again after going back to the checkpoint of "
                         "step %lld. Try a "
                         "smaller optim.lr, or a larger optim.guard if the data is to blame",
                         (long long)now.guard.in_a_row, why, (long long)t->saving.rolled_back);
    weft_status s = weft_saver_load(t->saver, &t->st, &stream);
    free(stream);
    if (s >= 0) s = weft_shards_changed(t->shards, 1);
    if (s < 0)
        return weft_context(s, "going back after %lld skipped steps (%s)", (long long)now.guard.in_a_row,
                            why);
    t->saving.rolled_back = t->saving.saved = t->st.step;
    t->st.g = now.g;
    t->st.elapsed = now.elapsed;
    t->st.contract = now.contract;
    t->st.bf16_order = now.bf16_order;
    memcpy(t->st.arithmetic, now.arithmetic, sizeof t->st.arithmetic);
    t->st.guard.in_a_row = 0;
    t->st.guard.limit = now.guard.limit;
    if (t->rank == 0) {
        weft_warn("step %lld: %lld steps in a row were skipped (%s); back to the checkpoint of step %lld, "
                  "with the data that follows",
                  (long long)now.step, (long long)now.guard.in_a_row, why, (long long)t->st.step);
        snprintf(json, sizeof json, "\"step\":%lld,\"from\":%lld,\"reason\":\"%s\"", (long long)t->st.step,
                 (long long)now.step, why);
        trainer_event(t, "rollback", json);
    }
    return WEFT_OK;
}
