/* The hub of a run over several sites, beside the supervisor of its home, and what a site needs to find it.
 *
 * Home: `weft hub` is a child that ends with this process. Its log is in DIR/hub, so the next generation's hub goes on
 * where this one ends, on whatever node. Invitations are made once and stay. Away: DIR/hub.addr and the invitation are
 * put there by `weft launch`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>
#include <poll.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "runtime/launch/supervise_live.h"

enum { INVITE_MS = 60000, STATUS_MS = 20000 };
#define OUTLAST_S 600.0 /* the others' last rounds */

static weft_status start_hub(live *l) {
    char dir[LIVE_PATH], path[LIVE_PATH];
    weft_words w = {0};
    l->hub_starts++;
    live_path(l, path, "hub/address");
    unlink(path); /* of the hub before: this one's is waited for */
    live_path(l, path, "invites");
    WEFT_TRY(weft_mkdirs(path));
    live_path(l, dir, "hub");
    live_path(l, path, "hub.log");
    weft_words_all(&w, (const char *const[]){l->self, "hub", "--dir", dir, "--listen", l->c->hub.listen,
                                             "--run", l->c->run, "--parent", NULL});
    if (l->c->hub.advertise && l->c->hub.advertise[0])
        weft_words_all(&w, (const char *const[]){"--advertise", l->c->hub.advertise, NULL});
    const weft_command_opts o = {.log = path, .with_parent = 1};
    const live_task *t = live_start(l, LIVE_HUB, &w, &o);
    weft_words_free(&w);
    return t ? WEFT_IN_PROGRESS : WEFT_ERR_SERVICE;
}

static weft_status invite(const live *l, const char *site) {
    char dir[LIVE_PATH], out[LIVE_PATH], name[2 * LIVE_NAME];
    weft_command c = {0};
    weft_words w = {0};
    snprintf(name, sizeof name, "invites/%.120s.json", site);
    live_path(l, out, name);
    if (access(out, F_OK) == 0) return WEFT_OK;
    live_path(l, dir, "hub");
    weft_words_all(&w,
                   (const char *const[]){l->self, "hub", "invite", site, "--dir", dir, "--out", out, NULL});
    const weft_command_opts o = {.timeout_ms = INVITE_MS};
    const char *const *argv = weft_words_argv(&w);
    weft_status s = argv ? weft_command_check(&c, argv, &o) : w.fail;
    weft_words_free(&w);
    weft_command_close(&c);
    return s < 0 ? weft_context(s, "inviting %s", site) : s;
}

static weft_status invite_all(const live *l) {
    for (uint32_t cell = 0; cell < l->m->rules.cells; cell++) {
        char member[LIVE_NAME];
        live_member(l, cell, member);
        WEFT_TRY(invite(l, member));
    }
    for (size_t i = 0; i < l->c->hub.sites.n; i++) {
        const char *site = l->c->hub.sites.item[i];
        if (strcmp(site, l->c->site) != 0 || l->m->rules.cells == 1) WEFT_TRY(invite(l, site));
    }
    return WEFT_OK;
}

/* The hub listens: invitations, then its address for everybody. */
static weft_status publish(live *l) {
    char from[LIVE_PATH], to[LIVE_PATH], *text = NULL;
    size_t n = 0;
    live_path(l, from, "hub/address");
    if (access(from, F_OK) < 0) return WEFT_IN_PROGRESS;
    WEFT_TRY(invite_all(l));
    WEFT_TRY(weft_file_read(from, LIVE_NAME * 4, &text, &n));
    live_path(l, to, "hub.addr");
    const weft_status s = weft_file_write(to, text, n);
    if (s >= 0) weft_info("the hub listens at %.*s", (int)strcspn(text, "\n"), text);
    free(text);
    return s;
}

weft_status live_hub(live *l) {
    l->hub_waits = 1;
    if (l->c->hub.place == WEFT_SUPERVISE_HUB_HERE) return start_hub(l);
    return live_hub_poll(l);
}

weft_status live_hub_poll(live *l) {
    char path[LIVE_PATH];
    if (!l->hub_waits) return WEFT_IN_PROGRESS;
    weft_status s = WEFT_IN_PROGRESS;
    if (l->c->hub.place == WEFT_SUPERVISE_HUB_HERE) {
        s = publish(l);
    } else {
        live_path(l, path, "hub.addr");
        int there = access(path, F_OK) == 0;
        for (uint32_t cell = 0; there && cell < l->m->rules.cells; cell++) {
            live_invitation(l, cell, path);
            there = access(path, F_OK) == 0;
        }
        if (there) s = WEFT_OK;
    }
    if (s != WEFT_IN_PROGRESS) l->hub_waits = 0;
    return s;
}

/* `weft hub WORDS --dir DIR/hub`; its output is in *c, to be closed. */
static weft_status tell_hub(const live *l, weft_command *c, const char *const *words) {
    char dir[LIVE_PATH];
    weft_words w = {0};
    live_path(l, dir, "hub");
    weft_words_all(&w, (const char *const[]){l->self, "hub", NULL});
    weft_words_all(&w, words);
    weft_words_all(&w, (const char *const[]){"--dir", dir, NULL});
    const weft_command_opts o = {.timeout_ms = STATUS_MS};
    const char *const *argv = weft_words_argv(&w);
    const weft_status s = argv ? weft_command_check(c, argv, &o) : w.fail;
    weft_words_free(&w);
    return s;
}

/* Members that take part still, by the hub's own word; -1: it does not say. What it says is kept in hub.json: it has the
 * accounts of all members, and weft launch reads them when the hub is gone. */
static int active_members(const live *l) {
    weft_command c = {0};
    int n = -1;
    if (tell_hub(l, &c, (const char *const[]){"status", "--json", NULL}) >= 0) {
        json_t *j = json_loadb(c.out.text, c.out.n, 0, NULL);
        const json_t *active = json_object_get(j, "active");
        char path[LIVE_PATH];
        live_path(l, path, "hub.json");
        if (json_is_array(active)) n = (int)json_array_size(active);
        if (n >= 0 && weft_file_write(path, c.out.text, c.out.n) < 0) weft_warn("%s", weft_last_error());
        json_decref(j);
    }
    weft_command_close(&c);
    return n;
}

void live_hub_outlast(live *l) {
    const double began = weft_now();
    double most = OUTLAST_S;
    weft_command c = {0};
    if (l->c->hub.place != WEFT_SUPERVISE_HUB_HERE || !live_find(l, LIVE_HUB, 0)) return;
    int n = active_members(l);
    if (l->code != 0 || n <= 0) return;
    if (l->m->end_ns != INT64_MAX) {
        const double left = (double)(l->m->end_ns - (int64_t)weft_now_ns()) * 1e-9 - l->c->lead_s / 2;
        if (left < most) most = left;
    }
    weft_info("%d other member%s of the run: the hub stays until they have ended", n, n == 1 ? "" : "s");
    /* who was needed to begin is not needed for the others' last rounds */
    if (tell_hub(l, &c, (const char *const[]){"set", "min_sites", "1", NULL}) < 0)
        weft_warn("%s", weft_last_error());
    weft_command_close(&c);
    while (n > 0 && weft_now() - began < most) {
        struct pollfd signal = {.fd = l->signals, .events = POLLIN};
        if (poll(&signal, 1, 1000) > 0) return; /* somebody wants the end now */
        n = active_members(l);
    }
}
