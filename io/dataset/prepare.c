/* A corpus -> tokenizer, train shards and a valid shard, of any size, on any number of threads, and killed at any time.
 *
 * The text is cut into blocks (blocks.h), blocks are tokenized at once and written in order (pipeline.h), so that the
 * tokens do not depend on the threads. Behind every piece of text the spools are synced and the state is replaced
 * (journal.h); it says where the next block begins, how long each spool is, and its digest. To go on is to cut the
 * spools to these lengths and to read on from there: as everything behind is a function of the text from there on, the
 * result has the same bytes.
 *
 * Train and valid never share a byte. Everything is made in DIR/.prepare and put in place at the end: the tokenizer,
 * then valid, then train: where train is, its pair is. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/dataset/pipeline.h"
#include "io/dataset/side.h"

#define MAX_JOURNAL  ((size_t)1 << 30) /* identity.json: a line an input */
#define PIECE_BYTES  ((uint64_t)64 << 20)
#define SHARD_TOKENS ((uint64_t)1 << 30)
#define TRAIN_BYTES  ((uint64_t)1 << 30)

typedef struct prepare {
    weft_prepare_opts o; /* with its defaults filled in */
    weft_text *text;
    const weft_tok *tok;
    weft_tok *own; /* trained or loaded here */
    const char *dir;
    char *work, *identity_path, *state_path, *tokenizer_path, *identity;
    int lock;
    int mine;      /* the work is of this preparation */
    int journaled; /* a state is on the disk */
    int resumed;
    side side[JOURNAL_SIDES];
    int sides;
    block_reader reader;
    journal_state state;
    uint64_t since, resumed_bytes; /* text since the last state; text of earlier runs */
} prepare;

/* --- the directory of unfinished things --------------------------------------------------------------------------- */

static weft_status open_work(prepare *p) {
    p->work = weft_path_join(p->dir, ".prepare");
    if (!p->work) return WEFT_ERR_NOMEM;
    p->identity_path = weft_path_join(p->work, "identity.json");
    p->state_path = weft_path_join(p->work, "state.json");
    p->tokenizer_path = weft_path_join(p->work, "tokenizer");
    if (!p->identity_path || !p->state_path || !p->tokenizer_path) return WEFT_ERR_NOMEM;
    WEFT_TRY(weft_mkdirs(p->dir));
    p->lock = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->lock < 0) return weft_fail_errno(errno, "%s", p->dir);
    /* Where directories cannot be locked, the user has to know what he does. */
    if (flock(p->lock, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return weft_fail(WEFT_ERR_ACCESS, "another process is preparing data in %s", p->dir);
    return WEFT_OK;
}

/* The state goes first: without it, the rest means nothing. */
static weft_status forget(const prepare *p) {
    if (unlink(p->state_path) < 0 && errno != ENOENT)
        return weft_fail_errno(errno, "removing %s", p->state_path);
    return weft_remove_tree(p->work);
}

static weft_status begin_anew(prepare *p) {
    p->mine = 1;
    WEFT_TRY(forget(p));
    return weft_mkdirs(p->work);
}

/* Takes up what is there, if it is of the same inputs and options. */
static weft_status look_for_state(prepare *p) {
    char *state = NULL, *identity = NULL;
    size_t n;
    if (p->o.restart || access(p->state_path, F_OK) < 0) return begin_anew(p);
    weft_status s = weft_file_read(p->identity_path, MAX_JOURNAL, &identity, &n);
    if (s == WEFT_OK) s = journal_compare(identity, p->identity);
    if (s == WEFT_OK) s = weft_file_read(p->state_path, MAX_JOURNAL, &state, &n);
    if (s == WEFT_OK) s = journal_parse(state, n, &p->state);
    if (s == WEFT_OK && p->state.skipped && !p->text->skip_bad)
        s = weft_fail(WEFT_ERR_ARG, "bad lines were skipped, now they shall not be");
    if (s == WEFT_OK && p->state.input > p->text->inputs.n)
        s = weft_fail(WEFT_ERR_CORRUPT, "the state of the preparation is damaged");
    free(state);
    free(identity);
    if (s < 0)
        return weft_context(
            s, "%s holds an unfinished preparation that cannot be taken up (to forget it: --restart)",
            p->dir);
    p->mine = p->resumed = p->journaled = 1;
    p->resumed_bytes = p->state.text_bytes;
    return WEFT_OK;
}

static weft_status write_state(prepare *p) {
    char *json = NULL;
    if (!p->journaled) WEFT_TRY(weft_file_write(p->identity_path, p->identity, strlen(p->identity)));
    p->state.tokenizer = weft_tok_fingerprint(p->tok);
    for (int i = 0; i < p->sides; i++) p->state.side[i] = p->side[i].state;
    WEFT_TRY(journal_format(&p->state, &json));
    weft_status s = weft_file_write(p->state_path, json, strlen(json));
    free(json);
    p->journaled |= s == WEFT_OK;
    return s;
}

/* Standard input will be another one next time. */
static int can_resume(const prepare *p) {
    return !p->text->inputs.passing;
}

/* --- the tokenizer -------------------------------------------------------------------------------------------------- */

static void tell(const prepare *p, const char *phase, double fraction) {
    uint64_t tokens = 0;
    for (int i = 0; i < p->sides; i++) tokens += side_tokens(&p->side[i]);
    const weft_prepare_progress at = {.phase = phase,
                                      .fraction = fraction < 1 ? fraction : 1,
                                      .text_bytes = p->state.text_bytes,
                                      .tokens = tokens,
                                      .skipped = p->state.skipped,
                                      .resumed_bytes = p->resumed_bytes};
    if (p->o.progress) p->o.progress(p->o.progress_arg, &at);
}

static void tell_training(void *arg, const char *phase, double fraction) {
    tell(arg, phase, fraction);
}

/* tokenizer.json, and vocab.json + merges.txt where these can express it, into an empty directory. */
static weft_status save_tokenizer(const weft_tok *tok, const char *dir) {
    WEFT_TRY(weft_remove_tree(dir));
    WEFT_TRY(weft_mkdirs(dir));
    WEFT_TRY(weft_tok_save(tok, dir, WEFT_TOK_JSON));
    weft_status s = weft_tok_save(tok, dir, WEFT_TOK_VOCAB_MERGES);
    if (s == WEFT_ERR_UNSUPPORTED) {
        weft_clear_error();
        s = WEFT_OK;
    }
    return s;
}

static weft_status train_tokenizer(prepare *p) {
    weft_tok_opts o = *p->o.train;
    o.threads = p->o.threads;
    o.progress = tell_training;
    o.progress_arg = p;
    WEFT_TRY(text_sample(p->text, p->o.train_bytes));
    WEFT_TRY_CTX(weft_tok_train(&o, weft_text_next, p->text, &p->own), "training the tokenizer");
    WEFT_TRY(text_sample(p->text, 0));
    return can_resume(p) ? save_tokenizer(p->own, p->tokenizer_path) : WEFT_OK;
}

static weft_status get_tokenizer(prepare *p, const weft_tok *given) {
    p->tok = given;
    if (!given) {
        WEFT_TRY(p->resumed ? weft_tok_load(p->tokenizer_path, &p->own) : train_tokenizer(p));
        p->tok = p->own;
    }
    if (p->resumed && weft_tok_fingerprint(p->tok) != p->state.tokenizer)
        return weft_fail(WEFT_ERR_CORRUPT,
                         "%s is not the tokenizer that the preparation began with (--restart)",
                         p->tokenizer_path);
    return WEFT_OK;
}

/* --- tokens ----------------------------------------------------------------------------------------------------------- */

static void describe(const prepare *p, weft_shard_info *i) {
    int given = p->o.source && *p->o.source;
    const char *source = given ? p->o.source : text_name(p->text),
               *slash = given ? NULL : strrchr(source, '/');
    memset(i, 0, sizeof *i);
    i->vocab = weft_tok_vocab(p->tok);
    i->eot = weft_tok_eot(p->tok);
    i->tokenizer = weft_tok_fingerprint(p->tok);
    i->entropy = NAN;
    i->masked = p->text->form.chat != WEFT_CHAT_NONE;
    snprintf(i->source, sizeof i->source, "%s", slash ? slash + 1 : source);
    snprintf(i->licence, sizeof i->licence, "%s", p->o.licence ? p->o.licence : "");
    snprintf(i->site, sizeof i->site, "%s", p->o.site ? p->o.site : "");
}

static weft_status open_sides(prepare *p) {
    static const char *const names[JOURNAL_SIDES] = {"train", "valid"};
    p->sides = p->o.holdout > 0 ? 2 : 1;
    for (int i = 0; i < p->sides; i++) {
        side *s = &p->side[i];
        *s = (side){.name = names[i], .work = p->work, .limit = i ? UINT64_MAX : p->o.shard_tokens};
        describe(p, &s->info);
        if (p->state.done)
            s->state = p->state.side[i];
        else
            WEFT_TRY(side_open(s, p->resumed ? &p->state.side[i] : NULL));
    }
    return WEFT_OK;
}

static weft_status save_piece(prepare *p) {
    for (int i = 0; i < p->sides; i++) WEFT_TRY(side_save(&p->side[i]));
    WEFT_TRY(write_state(p));
    for (int i = 0; i < p->sides; i++) WEFT_TRY(side_forget(&p->side[i]));
    p->since = 0;
    return WEFT_OK;
}

static weft_status write_block(void *arg, const text_block *b, const token_block *t) {
    prepare *p = arg;
    const token_doc *d = t->docs;
    for (size_t at = 0; d < t->docs + t->ndocs; at += d->tokens, d++)
        WEFT_TRY(side_put(&p->side[d->held && p->sides == 2], t->ids + at, t->mask ? t->mask + at : NULL, d));
    journal_state *s = &p->state;
    s->input = b->input;
    s->at = b->at + b->n;
    s->line = b->line + b->lines;
    s->text_bytes += b->n;
    s->skipped += t->skipped;
    p->since += b->n;
    tell(p, "tokenize", (double)b->consumed / (double)(p->text->inputs.bytes + 1));
    return can_resume(p) && p->since >= p->o.piece_bytes ? save_piece(p) : WEFT_OK;
}

static weft_status tokenize(prepare *p) {
    const tokenizer_job job = {p->text, p->tok, weft_tok_eot(p->tok)};
    const pipeline line = {
        .reader = &p->reader, .job = &job, .write = write_block, .arg = p, .threads = p->o.threads};
    blocks_open(&p->reader, &p->text->inputs, p->text->cut, p->o.block_bytes);
    if (p->resumed) WEFT_TRY(blocks_seek(&p->reader, (size_t)p->state.input, p->state.at, p->state.line));
    /* a tokenizer took minutes to train: it is worth a state of its own */
    else if (p->own && can_resume(p) && p->text->inputs.bytes >= p->o.piece_bytes)
        WEFT_TRY(save_piece(p));
    WEFT_TRY(pipeline_run(&line));
    for (int i = p->sides - 1; i >= 0; i--) {
        weft_status s = side_finish(&p->side[i]);
        if (s < 0)
            return weft_context(s, i ? "the held-out part (%g of the text)" : "the training part",
                                p->o.holdout);
    }
    p->state.done = 1;
    return p->journaled ? write_state(p) : WEFT_OK;
}

/* --- the end ------------------------------------------------------------------------------------------------------------ */

/* from/name becomes to/name; where there is none, an older to/name goes: it would not belong to the others. */
static weft_status move_file(const char *from, const char *to, const char *name) {
    char *a = weft_path_join(from, name), *b = weft_path_join(to, name);
    weft_status s = a && b ? WEFT_OK : WEFT_ERR_NOMEM;
    if (s == WEFT_OK && access(a, F_OK) == 0)
        s = weft_rename_durable(a, b);
    else if (s == WEFT_OK && unlink(b) < 0 && errno != ENOENT)
        s = weft_fail_errno(errno, "removing %s", b);
    free(a);
    free(b);
    return s;
}

static weft_status place_tokenizer(const prepare *p) {
    static const char *const file[] = {"tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.json"};
    char *made = weft_path_join(p->work, "placing"), *dir = weft_path_join(p->dir, "tokenizer");
    weft_status s = made && dir ? weft_mkdirs(dir) : WEFT_ERR_NOMEM;
    if (s == WEFT_OK) s = save_tokenizer(p->tok, made);
    for (size_t i = 0; s == WEFT_OK && i < sizeof file / sizeof *file; i++) s = move_file(made, dir, file[i]);
    free(made);
    free(dir);
    return s;
}

static weft_status put_in_place(prepare *p) {
    const side no_valid = {.name = "valid"};
    weft_status s = place_tokenizer(p);
    for (int i = p->sides - 1; s == WEFT_OK && i >= 0; i--) s = side_place(&p->side[i], p->dir);
    if (s == WEFT_OK) s = side_sweep(&p->side[0], p->dir);
    if (s == WEFT_OK && p->sides == 1) s = side_sweep(&no_valid, p->dir); /* an older one might overlap */
    return s == WEFT_OK ? forget(p) : s;
}

static void report(const prepare *p, weft_prepare_result *r) {
    *r = (weft_prepare_result){
        .train_shards = (size_t)p->side[0].state.shard, .skipped = p->state.skipped, .resumed = p->resumed};
    side_total(&p->side[0], &r->train);
    if (p->sides == 2) side_total(&p->side[1], &r->valid);
}

static weft_status run(prepare *p, const weft_tok *tok) {
    WEFT_TRY(journal_identity(p->text, tok, &p->o, &p->identity));
    WEFT_TRY(look_for_state(p));
    WEFT_TRY(text_hold_out(p->text, p->o.holdout));
    WEFT_TRY(get_tokenizer(p, tok));
    WEFT_TRY(open_sides(p));
    if (!p->state.done) WEFT_TRY(tokenize(p));
    WEFT_TRY(put_in_place(p));
    tell(p, "tokenize", 1);
    return WEFT_OK;
}

static weft_status check_opts(const weft_prepare_opts *o, const weft_tok *tok) {
    if (o->size != sizeof *o || (!tok && !o->train))
        return weft_fail(WEFT_ERR_ARG, "preparing data: bad options, or no tokenizer");
    if (!(o->holdout >= 0 && o->holdout <= 0.5))
        return weft_fail(WEFT_ERR_ARG, "holdout %g; a share from 0 to 0.5 is needed", o->holdout);
    return WEFT_OK;
}

static void close_all(prepare *p) {
    blocks_close(&p->reader);
    for (int i = 0; i < p->sides; i++) side_close(&p->side[i]);
    weft_tok_destroy(p->own);
    if (p->lock >= 0) close(p->lock);
    free(p->identity);
    free(p->tokenizer_path);
    free(p->state_path);
    free(p->identity_path);
    free(p->work);
}

weft_status weft_data_prepare(weft_text *text, const weft_tok *tok, const char *dir,
                              const weft_prepare_opts *o, weft_prepare_result *r) {
    WEFT_TRY(check_opts(o, tok));
    prepare p = {.o = *o, .text = text, .dir = dir, .lock = -1};
    if (p.o.threads < 1) p.o.threads = 1;
    if (!p.o.piece_bytes) p.o.piece_bytes = PIECE_BYTES;
    if (!p.o.shard_tokens) p.o.shard_tokens = SHARD_TOKENS;
    if (!p.o.train_bytes) p.o.train_bytes = TRAIN_BYTES;
    if (!p.o.block_bytes) p.o.block_bytes = BLOCK_BYTES;
    weft_status s = open_work(&p);
    if (s == WEFT_OK) s = run(&p, tok);
    if (s == WEFT_OK) report(&p, r);
    if (s < 0 && p.mine && p.journaled)
        weft_context(s, "stopped, and the same command goes on behind the first %llu bytes of text",
                     (unsigned long long)(p.state.text_bytes - p.since));
    else if (s < 0 && p.mine)
        forget(&p); /* nothing in it is worth keeping */
    close_all(&p);
    return s;
}
