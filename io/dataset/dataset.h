/* Token data: the native shard (*.wtok.h5), its makers, and the deterministic global sampler.
 *
 * A shard is one HDF5 file written through io/container: /tokens (u16 or u32, contiguous, mmap-able), /doc (i64 document
 * starts and the total), attributes tokenizer fingerprint, vocab, eot, bytes of source text, source, licence, site;
 * where not every token is to be learnt (instruction data) also /mask (u8, one 0 or 1 a token: 1 is learnt).
 * The training stream is a pure function of (seed, global sample index g): the same for any number of ranks, restarts
 * and joins. Its position is one integer. The formula is frozen as perm=1 (io/dataset/README.md). */
#ifndef WEFT_IO_DATASET_H
#define WEFT_IO_DATASET_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "io/tokenizer/tokenizer.h"

/* --- shards ------------------------------------------------------------------------------------------------- */

typedef struct weft_shard_info {
    uint64_t tokens, docs, source_bytes; /* source_bytes: raw text bytes that the tokens stand for; with a
 mask, that those with mask 1 stand for */
    uint32_t vocab;
    int64_t eot;        /* -1: none */
    uint64_t tokenizer; /* weft_tok_fingerprint; 0: synthetic */
    int width;          /* bytes per token: 2 or 4 */
    int masked;         /* 1: there is a mask; 0: every token counts in the loss */
    uint64_t targets;   /* tokens that count in the loss: those with mask 1; without a mask all */
    double entropy;     /* synthetic: bits per token of the source; else NaN */
    char source[256], licence[64], site[64];
} weft_shard_info;

/* Validates everything (header, sizes, offsets) but the tokens themselves, which are digested on first use;
 * FORMAT, CORRUPT, VERSION, NOTFOUND. */
weft_status weft_shard_info_read(const char *path, weft_shard_info *info);
/* Reads the whole shard: every digest, every gap, every id, every document start. info may be NULL. */
weft_status weft_shard_verify(const char *path, weft_shard_info *info);

typedef struct weft_shard_writer weft_shard_writer;
/* Writes to a temporary file; nothing exists under `path` before finish. info: vocab, eot, tokenizer, source, licence,
 * site, entropy, masked are taken from it. A shard with a mask is format version 2, which a weft that would ignore the
 * mask refuses; without one it is version 1, byte for byte. */
weft_status weft_shard_create(const char *path, const weft_shard_info *info, weft_shard_writer **w);
/* Appends one document's tokens (the caller adds eot) made from source_bytes bytes. mask[i], 0 or 1: is token i to be
 * predicted; NULL: all are. VOCAB: an id >= vocab. ARG: a mask for a shard that was created without masked; a value
 * other than 0 and 1. */
weft_status weft_shard_append(weft_shard_writer *w, const uint32_t *ids, const uint8_t *mask, size_t n,
                              uint64_t source_bytes);
/* Completes, syncs and renames; frees w in any case. */
weft_status weft_shard_finish(weft_shard_writer *w, weft_shard_info *info);
void weft_shard_abort(weft_shard_writer *w);

/* --- makers --------------------------------------------------------------------------------------------------- */

/* How a conversation becomes text (docs/data.md shows each). Only what the assistant says is learnt. */
typedef enum weft_chat {
    WEFT_CHAT_NONE, /* no conversations: a member of the object is the text, and all of it is learnt */
    WEFT_CHAT_PLAIN,
    WEFT_CHAT_CHATML,
    WEFT_CHAT_LLAMA3
} weft_chat;
/* The special tokens of a template, for a tokenizer that is to be trained; NULL-terminated. */
const char *const *weft_chat_markers(weft_chat chat);

typedef struct weft_text weft_text; /* a corpus: text and JSONL files */

typedef struct weft_text_opts {
    uint32_t size;
    const char *field; /* member that holds the text; NULL or "": "text" */
    weft_chat chat;  /* else lines are {"messages": [{"role", "content"}, ..]} or {"prompt", "completion"} */
    int skip_bad;    /* lines that are not what is expected are counted and passed over */
    int stdin_plain; /* standard input is plain text, not JSONL */
    const char *spool_dir; /* standard input is copied into an unnamed file here; NULL: "-" is refused */
} weft_text_opts;

/* paths: files, directories (all *.txt and *.jsonl below), patterns of the shell, "-" (standard input); of files
 * *.jsonl and *.ndjson have one object a line, all others are plain text, one document each; .zst and .gz may follow.
 * o NULL: the defaults. Non-UTF-8 bytes in plain text pass through. NOTFOUND, ACCESS, FORMAT. */
weft_status weft_text_open(const char *const *paths, size_t n, const weft_text_opts *o, weft_text **t);
/* The next document, a weft_read_fn; plain ones of more than a MiB come in pieces, whose tokens together are those of
 * the whole. Borrowed until the next call. FORMAT names file and line, or the damaged part of a packed file. */
weft_status weft_text_next(void *t /* weft_text * */, const char **text, size_t *n);
weft_status weft_text_rewind(weft_text *t);
void weft_text_close(weft_text *t);

typedef struct weft_prepare_progress {
    const char *phase; /* "count", "merge": of the tokenizer; "tokenize" */
    double fraction;
    uint64_t text_bytes, tokens, skipped; /* tokenize: so far, of this and earlier runs together */
    uint64_t resumed_bytes;               /* of these, by earlier runs */
} weft_prepare_progress;

typedef struct weft_prepare_opts {
    uint32_t size;
    double
        holdout; /* share of the text held out, in [0, 0.5]; from the END of every document if there are few
                       (< 100), else whole documents chosen by a hash; conversations: always whole */
    const char *source, *licence, *site;
    int threads;                /* the result does not depend on it; 0: 1 */
    const weft_tok_opts *train; /* used where tok is NULL; its threads and progress are ignored */
    uint64_t train_bytes;       /* about so much text, from all files, trains the tokenizer; 0: 1 GiB */
    uint64_t shard_tokens;      /* a train shard is closed behind so many; 0: 2^30 */
    uint64_t piece_bytes;       /* of text between two places to go on from; 0: 64 MiB */
    size_t block_bytes;         /* of text a thread takes at a time; 0: 1 MiB */
    int restart;                /* forget an unfinished preparation in `dir` */
    void (*progress)(void *arg,
                     const weft_prepare_progress *p); /* from any thread, one at a time; NULL: silent */
    void *progress_arg;
} weft_prepare_opts;

typedef struct weft_prepare_result {
    weft_shard_info train, valid; /* totals; valid is all zero without a held-out part */
    size_t train_shards;          /* 1: train.wtok.h5; else train-00000.wtok.h5 and so on */
    uint64_t skipped;             /* bad lines */
    int resumed;                  /* went on where an earlier call was killed */
} weft_prepare_result;

/* Tokenizes a corpus into DIR/tokenizer/, DIR/train.wtok.h5 (or train-NNNNN.wtok.h5) and, if holdout > 0,
 * DIR/valid.wtok.h5. tok NULL: trains one. A document becomes eot + its ids.
 *
 * Memory: a few MiB a thread and a few times the longest line. Killed at any instant, the same call goes on from the
 * last piece (its work is in DIR/.prepare until the end) and makes the same bytes as one that was never killed;
 * standard input cannot be taken up again. On an error nothing is left there, unless a whole piece was done.
 * ARG: an unfinished preparation of other inputs or options is in DIR (says what differs). ACCESS: another process is at
 * work there. FORMAT: bad text. */
weft_status weft_data_prepare(weft_text *text, const weft_tok *tok, const char *dir,
                              const weft_prepare_opts *o, weft_prepare_result *r);

/* A synthetic shard: a first-order Markov chain over `vocab` symbols whose rows are seeded Philox draws; its entropy
 * rate in bits per token is computed exactly (stationary distribution) and stored. */
weft_status weft_data_synth(const char *path, uint32_t vocab, uint64_t tokens, uint64_t seed,
                            double concentration, weft_shard_info *info);

/* --- sampler ---------------------------------------------------------------------------------------------------- */

typedef struct weft_data weft_data;

typedef struct weft_source_spec { /* one weighted source ("site" in the formula), of one or more shards */
    const char *name;
    double weight; /* > 0 */
    const char *const *shards;
    size_t nshards; /* 0: the shards are at another site; no window can be read here, see weft_data_tell */
} weft_source_spec;

/* Opens and maps the shards; context = T: a sample is T+1 tokens (inputs and targets overlap by one), windows step T and
 * never cross a shard. block: a power of two of samples, frozen (decisions.md: independent of the batch size); 0: 1024.
 * All shards must have the same vocab and tokenizer (VOCAB). At least one source is here. */
weft_status weft_data_open(const weft_source_spec *src, size_t nsrc, int64_t context, uint64_t seed,
                           uint64_t block, weft_data **out);
void weft_data_close(weft_data *d);
const weft_shard_info *weft_data_info(const weft_data *d);     /* totals over all shards */
uint64_t weft_data_windows(const weft_data *d, size_t source); /* samples in one epoch of a source */

/* The formula: source and window of global sample g. O(1), pure. Any thread. */
weft_status weft_data_locate(const weft_data *d, uint64_t g, uint32_t *source, uint64_t *window);
/* n samples by global index into tok[n*(T+1)]. Any thread. CORRUPT: a token >= vocab. */
weft_status weft_data_get(const weft_data *d, const uint64_t *g, size_t n, int32_t *tok);
/* The loss masks of the same samples into mask[n*(T+1)]: mask[i] belongs to token i, so that the loss of the prediction
 * of tok[i + 1] counts where mask[i + 1] is 1. Shards without a mask give 1. Any thread. CORRUPT: a value above 1. */
weft_status weft_data_get_mask(const weft_data *d, const uint64_t *g, size_t n, uint8_t *mask);
/* Samples as a model takes them; the memory is the caller's. */
typedef struct weft_rows {
    int32_t *tok; /* [rows, T + 1]; -1 behind the end of an evaluation window */
    int32_t *
        target; /* [rows, T]: tok one further, or -1 where it does not count: the shard's mask is 0, or, where
                        start is wanted, another document begins with a token other than eot */
    int32_t *
        start; /* [rows, T]: where in its row the document of each token begins, 0 for one that began before it;
                        NULL: not wanted, documents follow each other in one text */
} weft_rows;
/* Memory for n rows; documents: with start. NOMEM. Free with weft_rows_free, which takes an empty one, too. */
weft_status weft_rows_alloc(size_t n, int64_t context, int documents, weft_rows *rows);
void weft_rows_free(weft_rows *rows);
/* n samples by global index. Any thread. CORRUPT: a damaged segment, a token >= vocab, documents out of order. */
weft_status weft_data_rows(const weft_data *d, const uint64_t *g, size_t n, const weft_rows *rows);
/* Evaluation window w (see below) as row number `row`. Any thread. */
weft_status weft_data_eval_rows(const weft_data *d, size_t source, uint64_t w, size_t row,
                                const weft_rows *rows);
/* Window w of a source in file order, for evaluation; the last one may be short: *valid = targets that count, the rest
 * of tok is filled with -1. The windows of one source cover every token but a shard's first exactly once. */
uint64_t weft_data_eval_windows(const weft_data *d, size_t source);
weft_status weft_data_eval_get(const weft_data *d, size_t source, uint64_t w, int32_t *tok, int64_t *valid);
/* The masks of that window into mask[T+1]; 0 behind its end. */
weft_status weft_data_eval_mask(const weft_data *d, size_t source, uint64_t w, uint8_t *mask);
/* Tells the kernel that these samples come next (MADV_WILLNEED). */
void weft_data_prefetch(const weft_data *d, const uint64_t *g, size_t n);
/* What a site tells of a source: counts and fingerprints, no content. */
typedef struct weft_source_facts {
    uint64_t windows, content, tokens, docs, targets, source_bytes;
    uint64_t vocab, tokenizer;
    int64_t eot;
} weft_source_facts;
/* The facts of a source that is here. ARG: it is elsewhere, or does not exist. */
weft_status weft_data_facts(const weft_data *d, size_t source, weft_source_facts *f);
/* What is known of a source that is elsewhere, once; it then counts in weft_data_info and in the state. VOCAB: another
 * tokenizer than the sources' that are here. ARG: the source is here. */
weft_status weft_data_tell(weft_data *d, size_t source, const weft_source_facts *f);
/* ACCESS: an open shard names an owner other than site. */
weft_status weft_data_check_owner(const weft_data *d, const char *site);
size_t weft_data_sources(const weft_data *d);
const char *weft_data_source_name(const weft_data *d, size_t source);
/* Samples of each source among the first g of the run, into count[sources]: exact at the edges of blocks, within one
 * sample of the share elsewhere. */
void weft_data_drawn(const weft_data *d, uint64_t g, uint64_t *count);

/* One who takes part in a step. */
typedef struct weft_member {
    uint64_t site;  /* weft_site_id of where it is; 0: it reads whatever comes */
    uint32_t share; /* of the samples it may read, as others' shares are to each other; >= 1 */
} weft_member;
uint64_t weft_site_id(const char *site);
/* Sources named NAME or NAME/anything are at site NAME. */
int weft_source_at(const char *source, uint64_t site);
/* The samples of [g, g + n) that member `self` of m[0..nm) reads, rising, into out[0..*n_out) (room for n). Members of a
 * site read the samples of its sources, members of no site (then all are of none) any; they cut them into runs
 * proportional to their shares. So every sample of a source with members is read once. Pure; any thread. */
weft_status weft_data_assign(const weft_data *d, uint64_t g, size_t n, const weft_member *m, size_t nm,
                             size_t self, uint64_t *out, size_t *n_out);
/* The mixture that holds last becomes `weights` from the first block edge at or behind g on, *from; nothing is appended
 * where it is that already (*from = UINT64_MAX). */
weft_status weft_data_remix(weft_data *d, uint64_t g, const double *weights, uint64_t *from);
/* Appends a mixture change at global index g0 (a block edge): the append-only schedule of io.md 2.4. */
weft_status weft_data_reweight(weft_data *d, uint64_t g0, const double *weights);
/* The stream's identity and schedule as JSON, and back (checks seed, block, fingerprints). Free *json with free(). */
weft_status weft_data_state(const weft_data *d, char **json);
weft_status weft_data_restore(weft_data *d, const char *json);
/* Sum over samples of XXH3-128(g, tokens), halves mod 2^64: the same in any order, for tests and reports. */
weft_status weft_data_hash(const weft_data *d, const uint64_t *g, size_t n, uint64_t sum[2]);

#endif
