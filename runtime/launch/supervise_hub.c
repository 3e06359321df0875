/* The hub of a run over several sites, beside the supervisor of its home, and what a site needs to find it.
 *
 * Home: `weft hub` is a child that ends with this process. Its log is in DIR/hub, so the next generation's hub goes on
 * where this one ends, on whatever node. Invitations are made once and stay. Away: DIR/hub.addr and the invitation are
 * put there by `weft launch`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "runtime/launch/supervise_live.h"

enum { INVITE_MS = 60000 };

static weft_status start_hub(live *l) {
    char dir[LIVE_PATH], path[LIVE_PATH];
    weft_words w = {0};
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
