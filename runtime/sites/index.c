/* The index in SQLite; see index.h. One transaction a batch of records, which ends with the number and chain of the last one
 * applied: after a crash the database stands at a record, and the rest follows. Durability is the log's matter, so the
 * database syncs seldom (WAL, synchronous NORMAL). */
#include "runtime/sites/index.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "runtime/sites/message.h"

enum { INDEX_VERSION = 1, BATCH = 1000, BUSY_MS = 2000 };

typedef enum statement {
    SET_APPLIED,
    SET_RUN,
    ADD_MEMBER,
    ADD_EVENT,
    ADD_EVENT_OF,
    ADD_ROUND,
    ADD_SHARE,
    COUNT_SHARE,
    SET_SEAL,
    ADD_TOTAL,
    JOIN,
    LEAVE,
    STATEMENTS
} statement;

struct weft_hub_index {
    sqlite3 *db;
    sqlite3_stmt *st[STATEMENTS];
    char *path;
    uint64_t seq;
    uint8_t chain[WEFT_CHAIN_BYTES];
    weft_site_set active; /* by the last epoch applied */
    weft_site_message m;  /* of the record being applied */
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS applied(one INTEGER PRIMARY KEY CHECK(one=1), version INTEGER, seq INTEGER, "
    "chain BLOB, active INTEGER);"
    "CREATE TABLE IF NOT EXISTS run(one INTEGER PRIMARY KEY CHECK(one=1), seq INTEGER, time REAL, name TEXT, "
    "h INTEGER,"
    " tau INTEGER, fragments INTEGER);"
    "CREATE TABLE IF NOT EXISTS members(member INTEGER PRIMARY KEY, site TEXT, state TEXT, since REAL, "
    "address TEXT,"
    " joins INTEGER DEFAULT 0, leaves INTEGER DEFAULT 0, commits INTEGER DEFAULT 0, tokens INTEGER DEFAULT 0,"
    " steps INTEGER DEFAULT 0, bytes INTEGER DEFAULT 0, last_commit REAL, loss REAL);"
    "CREATE TABLE IF NOT EXISTS events(seq INTEGER, time REAL, site TEXT, what TEXT, why TEXT);"
    "CREATE INDEX IF NOT EXISTS events_seq ON events(seq);"
    "CREATE TABLE IF NOT EXISTS rounds(seq INTEGER PRIMARY KEY, time REAL, fragment INTEGER, round INTEGER, "
    "attempt INTEGER,"
    " sites INTEGER, tokens INTEGER, steps INTEGER, bytes INTEGER, loss REAL, eta REAL, gather INTEGER, "
    "sealed REAL);"
    "CREATE TABLE IF NOT EXISTS shares(seq INTEGER, member INTEGER, weight REAL, tokens INTEGER, steps "
    "INTEGER,"
    " bytes INTEGER, loss REAL, PRIMARY KEY(seq, member)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS seals(fragment INTEGER PRIMARY KEY, round INTEGER, time REAL);"
    "CREATE TABLE IF NOT EXISTS totals(name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;";

static const char *const statements[STATEMENTS] = {
    [SET_APPLIED] =
        "INSERT INTO applied VALUES(1,?1,?2,?3,?4) ON CONFLICT(one) DO UPDATE SET version=?1, seq=?2,"
        " chain=?3, active=?4",
    [SET_RUN] = "INSERT OR REPLACE INTO run VALUES(1,?,?,?,?,?,?)",
    [ADD_MEMBER] = "INSERT INTO members(member,site,state,since,address) VALUES(?1,?2,?3,?4,?5)"
                   " ON CONFLICT(member) DO UPDATE SET site=?2, state=?3, since=?4, address=?5",
    [ADD_EVENT_OF] = "INSERT INTO events VALUES(?1,?2,(SELECT site FROM members WHERE member=?3),?4,'')",
    [ADD_EVENT] = "INSERT INTO events VALUES(?,?,?,?,?)",
    [ADD_ROUND] = "INSERT OR REPLACE INTO rounds VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,"
                  "(SELECT time FROM seals WHERE fragment=?3 AND round=?4))",
    [ADD_SHARE] = "INSERT OR REPLACE INTO shares VALUES(?,?,?,?,?,?,?)",
    [COUNT_SHARE] = "UPDATE members SET commits=commits+1, tokens=tokens+?2, steps=steps+?3, bytes=bytes+?4,"
                    " last_commit=?5, loss=?6 WHERE member=?1",
    [SET_SEAL] = "INSERT OR REPLACE INTO seals VALUES(?,?,?)",
    [JOIN] = "UPDATE members SET state='active', since=?2, joins=joins+1 WHERE member=?1",
    [LEAVE] = "UPDATE members SET leaves=leaves+1 WHERE member=?1",
    [ADD_TOTAL] = "INSERT INTO totals VALUES(?1,?2) ON CONFLICT(name) DO UPDATE SET value=value+?2",
};

/* ---- SQLite ---- */

static weft_status failed(const weft_hub_index *x, int rc) {
    const weft_status s = rc == SQLITE_FULL                             ? WEFT_ERR_SPACE
                          : rc == SQLITE_NOMEM                          ? WEFT_ERR_NOMEM
                          : rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB ? WEFT_ERR_CORRUPT
                          : rc == SQLITE_READONLY || rc == SQLITE_PERM  ? WEFT_ERR_ACCESS
                                                                        : WEFT_ERR_IO;
    return weft_fail(s, "the index %s: %s", x->path, x->db ? sqlite3_errmsg(x->db) : sqlite3_errstr(rc));
}

static weft_status run_sql(weft_hub_index *x, const char *sql) {
    const int rc = sqlite3_exec(x->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? WEFT_OK : failed(x, rc);
}

/* Steps a statement whose parameters are bound, to its end; forgets them. */
static weft_status done(weft_hub_index *x, statement which) {
    sqlite3_stmt *st = x->st[which];
    const int rc = sqlite3_step(st);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return rc == SQLITE_DONE ? WEFT_OK : failed(x, rc);
}

static void put_int(weft_hub_index *x, statement w, int at, uint64_t v) {
    sqlite3_bind_int64(x->st[w], at, (sqlite3_int64)v);
}
static void put_num(weft_hub_index *x, statement w, int at, double v) {
    sqlite3_bind_double(x->st[w], at, v); /* NaN: NULL */
}
static void put_text(weft_hub_index *x, statement w, int at, const char *v) {
    sqlite3_bind_text(x->st[w], at, v, -1, SQLITE_TRANSIENT);
}

/* ---- records ---- */

typedef struct moment {
    uint64_t seq;
    double time;
} moment;

static weft_status add_event(weft_hub_index *x, const moment *t, const char *site, const char *what,
                             const char *why) {
    put_int(x, ADD_EVENT, 1, t->seq);
    put_num(x, ADD_EVENT, 2, t->time);
    put_text(x, ADD_EVENT, 3, site);
    put_text(x, ADD_EVENT, 4, what);
    put_text(x, ADD_EVENT, 5, why);
    return done(x, ADD_EVENT);
}

static weft_status add_total(weft_hub_index *x, const char *name, uint64_t v) {
    put_text(x, ADD_TOTAL, 1, name);
    put_int(x, ADD_TOTAL, 2, v);
    return done(x, ADD_TOTAL);
}

static weft_status apply_run(weft_hub_index *x, const moment *t, const weft_site_run *r) {
    put_int(x, SET_RUN, 1, t->seq);
    put_num(x, SET_RUN, 2, t->time);
    put_text(x, SET_RUN, 3, r->name);
    put_int(x, SET_RUN, 4, r->h);
    put_int(x, SET_RUN, 5, r->tau);
    put_int(x, SET_RUN, 6, r->nfragments);
    WEFT_TRY(done(x, SET_RUN));
    return add_event(x, t, "", "run", r->name);
}

static weft_status apply_member(weft_hub_index *x, const moment *t, const weft_site_member *r) {
    put_int(x, ADD_MEMBER, 1, r->member);
    put_text(x, ADD_MEMBER, 2, r->site);
    put_text(x, ADD_MEMBER, 3, weft_site_state_name(r->state));
    put_num(x, ADD_MEMBER, 4, t->time);
    put_text(x, ADD_MEMBER, 5, r->address);
    WEFT_TRY(done(x, ADD_MEMBER));
    return add_event(x, t, r->site, weft_site_state_name(r->state),
                     r->reason == WEFT_WHY_NONE ? "" : weft_site_reason_name(r->reason));
}

/* Who is active by one epoch and not by the one before has joined, and the other way round. */
static weft_status apply_epoch(weft_hub_index *x, const moment *t, const weft_site_epoch *e) {
    const weft_site_set changed = e->active ^ x->active;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++) {
        if (!weft_site_has(changed, m)) continue;
        const int joins = weft_site_has(e->active, m);
        put_int(x, joins ? JOIN : LEAVE, 1, m);
        if (joins) put_num(x, JOIN, 2, t->time);
        WEFT_TRY(done(x, joins ? JOIN : LEAVE));
        put_int(x, ADD_EVENT_OF, 1, t->seq);
        put_num(x, ADD_EVENT_OF, 2, t->time);
        put_int(x, ADD_EVENT_OF, 3, m);
        put_text(x, ADD_EVENT_OF, 4, joins ? "joined" : "left");
        WEFT_TRY(done(x, ADD_EVENT_OF));
    }
    x->active = e->active;
    return WEFT_OK;
}

static weft_status apply_share(weft_hub_index *x, const moment *t, const weft_site_commit *c, uint32_t m) {
    put_int(x, ADD_SHARE, 1, t->seq);
    put_int(x, ADD_SHARE, 2, m);
    put_num(x, ADD_SHARE, 3, (double)c->weight[m]);
    put_int(x, ADD_SHARE, 4, c->tokens[m]);
    put_int(x, ADD_SHARE, 5, c->steps[m]);
    put_int(x, ADD_SHARE, 6, c->bytes[m]);
    put_num(x, ADD_SHARE, 7, c->loss[m]);
    WEFT_TRY(done(x, ADD_SHARE));
    put_int(x, COUNT_SHARE, 1, m);
    /* the commits of the first fragment carry all work once, those of the others the same again */
    put_int(x, COUNT_SHARE, 2, c->key.fragment ? 0 : c->tokens[m]);
    put_int(x, COUNT_SHARE, 3, c->key.fragment ? 0 : c->steps[m]);
    put_int(x, COUNT_SHARE, 4, c->bytes[m]);
    put_num(x, COUNT_SHARE, 5, t->time);
    put_num(x, COUNT_SHARE, 6, c->loss[m]);
    return done(x, COUNT_SHARE);
}

static weft_status apply_commit(weft_hub_index *x, const moment *t, const weft_site_commit *c) {
    uint64_t tokens = 0, steps = 0, bytes = 0;
    double loss = 0;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++) {
        if (!weft_site_has(c->in, m)) continue;
        WEFT_TRY(apply_share(x, t, c, m));
        tokens += c->tokens[m];
        steps += c->steps[m];
        bytes += c->bytes[m];
        loss += (double)c->weight[m] * c->loss[m];
    }
    put_int(x, ADD_ROUND, 1, t->seq);
    put_num(x, ADD_ROUND, 2, t->time);
    put_int(x, ADD_ROUND, 3, c->key.fragment);
    put_int(x, ADD_ROUND, 4, c->key.round);
    put_int(x, ADD_ROUND, 5, c->key.attempt);
    put_int(x, ADD_ROUND, 6, (uint64_t)weft_site_count(c->in));
    put_int(x, ADD_ROUND, 7, tokens);
    put_int(x, ADD_ROUND, 8, steps);
    put_int(x, ADD_ROUND, 9, bytes);
    if (c->in) put_num(x, ADD_ROUND, 10, loss);
    put_num(x, ADD_ROUND, 11, (double)c->eta);
    put_int(x, ADD_ROUND, 12, c->gather);
    WEFT_TRY(done(x, ADD_ROUND));
    WEFT_TRY(add_total(x, "commits", 1));
    WEFT_TRY(add_total(x, "tokens", c->key.fragment ? 0 : tokens));
    return add_total(x, "bytes", bytes);
}

static weft_status apply_seal(weft_hub_index *x, const moment *t, const weft_site_commit *c) {
    put_int(x, SET_SEAL, 1, c->key.fragment);
    put_int(x, SET_SEAL, 2, c->key.round);
    put_num(x, SET_SEAL, 3, t->time);
    return done(x, SET_SEAL);
}

static weft_status apply_agreed(weft_hub_index *x, const moment *t, const weft_site_agreed *a) {
    char text[64];
    WEFT_TRY(add_total(x, "audits", 1));
    if (!a->differ) return WEFT_OK;
    WEFT_TRY(add_total(x, "differing", 1));
    snprintf(text, sizeof text, "fragment %u at version %llu", a->fragment, (unsigned long long)a->version);
    return add_event(x, t, "", "audit differs", text);
}

static weft_status apply_admin(weft_hub_index *x, const moment *t, const weft_site_admin *a) {
    static const char *const verbs[WEFT_ADMIN_END] = {[WEFT_ADMIN_ROSTER] = "roster",
                                                      [WEFT_ADMIN_EJECT] = "eject",
                                                      [WEFT_ADMIN_ALLOW] = "allow",
                                                      [WEFT_ADMIN_DRAIN] = "drain"};
    return add_event(x, t, a->site, a->verb < WEFT_ADMIN_END && verbs[a->verb] ? verbs[a->verb] : "?",
                     "ordered");
}

static weft_status apply_term(weft_hub_index *x, const moment *t, uint64_t term) {
    char text[32];
    snprintf(text, sizeof text, "term %llu", (unsigned long long)term);
    return add_event(x, t, "", "hub started", text);
}

static weft_status apply(weft_hub_index *x, const weft_log_record *r) {
    const moment t = {r->seq, (double)r->unix_ns * 1e-9};
    WEFT_TRY_CTX(weft_site_unpack(r->type, r->body, r->body_bytes, &x->m), "record %llu",
                 (unsigned long long)r->seq);
    switch (r->type) {
    case WEFT_SITE_RUN: WEFT_TRY(apply_run(x, &t, &x->m.u.run)); break;
    case WEFT_SITE_TERM: WEFT_TRY(apply_term(x, &t, x->m.u.term.term)); break;
    case WEFT_SITE_MEMBER: WEFT_TRY(apply_member(x, &t, &x->m.u.member)); break;
    case WEFT_SITE_EPOCH: WEFT_TRY(apply_epoch(x, &t, &x->m.u.epoch)); break;
    case WEFT_SITE_SEAL: WEFT_TRY(apply_seal(x, &t, &x->m.u.commit)); break;
    case WEFT_SITE_COMMIT: WEFT_TRY(apply_commit(x, &t, &x->m.u.commit)); break;
    case WEFT_SITE_ABORT: WEFT_TRY(add_total(x, "aborts", 1)); break;
    case WEFT_SITE_AGREED: WEFT_TRY(apply_agreed(x, &t, &x->m.u.agreed)); break;
    case WEFT_SITE_ADMIN: WEFT_TRY(apply_admin(x, &t, &x->m.u.admin)); break;
    case WEFT_SITE_ROLLBACK:
        WEFT_TRY(add_event(x, &t, "", "rollback", "nobody had the newest versions any more"));
        break;
    default: break;
    }
    x->seq = r->seq;
    memcpy(x->chain, r->chain, sizeof x->chain);
    return WEFT_OK;
}

static weft_status note_applied(weft_hub_index *x) {
    put_int(x, SET_APPLIED, 1, INDEX_VERSION);
    put_int(x, SET_APPLIED, 2, x->seq);
    sqlite3_bind_blob(x->st[SET_APPLIED], 3, x->chain, sizeof x->chain, SQLITE_TRANSIENT);
    put_int(x, SET_APPLIED, 4, x->active);
    return done(x, SET_APPLIED);
}

static weft_status apply_batch(weft_hub_index *x, weft_hub_log *l, uint64_t last) {
    weft_log_record r;
    while (x->seq < last) {
        WEFT_TRY(weft_hub_log_read(l, x->seq + 1, &r));
        WEFT_TRY(apply(x, &r));
    }
    return note_applied(x);
}

weft_status weft_hub_index_follow(weft_hub_index *x, weft_hub_log *l, uint64_t most) {
    const uint64_t last = most && l->synced > x->seq && l->synced - x->seq > most ? x->seq + most : l->synced;
    while (x->seq < last) {
        const uint64_t left = last - x->seq, before = x->seq;
        const weft_site_set active = x->active;
        uint8_t chain[WEFT_CHAIN_BYTES];
        memcpy(chain, x->chain, sizeof chain);
        WEFT_TRY(run_sql(x, "BEGIN IMMEDIATE"));
        weft_status s = apply_batch(x, l, x->seq + (left < BATCH ? left : BATCH));
        if (s >= 0) s = run_sql(x, "COMMIT");
        if (s < 0) {
            weft_context(s, "record %llu", (unsigned long long)x->seq + 1);
            sqlite3_exec(x->db, "ROLLBACK", NULL, NULL, NULL);
            x->seq = before;
            x->active = active;
            memcpy(x->chain, chain, sizeof chain);
            return s;
        }
    }
    return WEFT_OK;
}

uint64_t weft_hub_index_seq(const weft_hub_index *x) {
    return x->seq;
}

/* ---- opening ---- */

static void close_db(weft_hub_index *x) {
    for (int i = 0; i < STATEMENTS; i++) {
        sqlite3_finalize(x->st[i]);
        x->st[i] = NULL;
    }
    sqlite3_close(x->db);
    x->db = NULL;
}

void weft_hub_index_close(weft_hub_index *x) {
    if (!x) return;
    close_db(x);
    free(x->path);
    free(x);
}

/* Where it stands; CORRUPT: not at a record of this log. */
static weft_status read_applied(weft_hub_index *x, weft_hub_log *l) {
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(x->db, "SELECT version, seq, chain, active FROM applied", -1, &st, NULL);
    weft_status s = rc == SQLITE_OK ? WEFT_OK : failed(x, rc);
    x->seq = x->active = 0;
    memset(x->chain, 0, sizeof x->chain);
    if (s >= 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        x->seq = (uint64_t)sqlite3_column_int64(st, 1);
        if (sqlite3_column_int(st, 0) != INDEX_VERSION || sqlite3_column_bytes(st, 2) != WEFT_CHAIN_BYTES)
            s = weft_fail(WEFT_ERR_CORRUPT, "%s was made by another weft", x->path);
        else
            memcpy(x->chain, sqlite3_column_blob(st, 2), WEFT_CHAIN_BYTES);
        x->active = (weft_site_set)sqlite3_column_int64(st, 3);
        if (s >= 0 && weft_hub_log_compare(l, x->seq, x->chain) < 0)
            s = weft_fail(WEFT_ERR_CORRUPT, "%s is the index of another log", x->path);
    } else if (s >= 0 && rc != SQLITE_DONE) {
        s = failed(x, rc);
    }
    sqlite3_finalize(st);
    return s;
}

static weft_status open_db(weft_hub_index *x, weft_hub_log *l) {
    int rc = sqlite3_open_v2(x->path, &x->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) return failed(x, rc);
    sqlite3_busy_timeout(x->db, BUSY_MS);
    WEFT_TRY(run_sql(x, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"));
    WEFT_TRY(run_sql(x, schema));
    for (int i = 0; i < STATEMENTS; i++) {
        rc = sqlite3_prepare_v2(x->db, statements[i], -1, &x->st[i], NULL);
        if (rc != SQLITE_OK) return failed(x, rc);
    }
    return read_applied(x, l);
}

/* The file is of no use: kept under another name, for who wants to know why. */
static weft_status set_aside(const char *path) {
    static const char *const suffix[] = {"", "-wal", "-shm"};
    char from[4096], to[4200];
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof from, "%s%s", path, suffix[i]);
        snprintf(to, sizeof to, "%s.bad%s", path, suffix[i]);
        if (i ? unlink(from) < 0 : rename(from, to) < 0) {
            if (!i) return weft_fail(WEFT_ERR_ACCESS, "%s cannot be set aside", path);
        }
    }
    return WEFT_OK;
}

weft_status weft_hub_index_open(const char *path, weft_hub_log *l, uint64_t most, weft_hub_index **out) {
    *out = NULL;
    weft_hub_index *x = weft_calloc(1, sizeof *x);
    if (!x) return WEFT_ERR_NOMEM;
    x->path = weft_strdup(path);
    weft_status s = x->path ? open_db(x, l) : WEFT_ERR_NOMEM;
    if (s >= 0) s = weft_hub_index_follow(x, l, most);
    if (s == WEFT_ERR_CORRUPT || s == WEFT_ERR_IO) {
        weft_warn("hub: the index is made anew from the log: %s", weft_last_error());
        close_db(x);
        s = set_aside(path);
        if (s >= 0) s = open_db(x, l);
        if (s >= 0) s = weft_hub_index_follow(x, l, most);
    }
    if (s < 0) {
        weft_hub_index_close(x);
        return s;
    }
    *out = x;
    return WEFT_OK;
}

/* ---- questions ---- */

static json_t *value(sqlite3_stmt *st, int i) {
    switch (sqlite3_column_type(st, i)) {
    case SQLITE_INTEGER: return json_integer(sqlite3_column_int64(st, i));
    case SQLITE_FLOAT: return json_real(sqlite3_column_double(st, i));
    case SQLITE_TEXT: return json_string((const char *)sqlite3_column_text(st, i));
    default: return json_null();
    }
}

/* Rows as objects by the names of the columns. most >= 0: bound to the one parameter. */
static json_t *rows(weft_hub_index *x, const char *sql, int most) {
    sqlite3_stmt *st = NULL;
    json_t *all = json_array();
    if (!all || sqlite3_prepare_v2(x->db, sql, -1, &st, NULL) != SQLITE_OK) {
        json_decref(all);
        return NULL;
    }
    if (most >= 0) sqlite3_bind_int(st, 1, most);
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        json_t *row = json_object();
        for (int i = 0; i < sqlite3_column_count(st); i++)
            json_object_set_new(row, sqlite3_column_name(st, i), value(st, i));
        json_array_append_new(all, row);
    }
    sqlite3_finalize(st);
    if (rc == SQLITE_DONE) return all;
    json_decref(all);
    return NULL;
}

json_t *weft_hub_index_sites(weft_hub_index *x) {
    return rows(
        x,
        "SELECT site, member, state, since, joins, leaves, commits, tokens, steps, bytes, last_commit, loss"
        " FROM members ORDER BY member",
        -1);
}

json_t *weft_hub_index_rounds(weft_hub_index *x, int most) {
    return rows(x,
                "SELECT seq, time, fragment, round, attempt, sites, tokens, steps, bytes, loss, eta, "
                "time-sealed AS seconds"
                " FROM rounds ORDER BY seq DESC LIMIT ?",
                most);
}

json_t *weft_hub_index_events(weft_hub_index *x, int most) {
    return rows(x, "SELECT seq, time, site, what, why FROM events ORDER BY seq DESC LIMIT ?", most);
}

json_t *weft_hub_index_totals(weft_hub_index *x) {
    static const char *const names[] = {"commits", "aborts", "tokens", "bytes", "audits", "differing"};
    json_t *all = rows(x, "SELECT name, value FROM totals", -1), *out = json_object(), *row;
    size_t i;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++)
        json_object_set_new(out, names[k], json_integer(0));
    json_array_foreach(all, i, row) {
        json_object_set(out, json_string_value(json_object_get(row, "name")), json_object_get(row, "value"));
    }
    json_decref(all);
    return out;
}
