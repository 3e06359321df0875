/* Reader of HuggingFace's tokenizer.json: byte-level BPE only, everything else refused by its name.
 *
 * The file describes a pipeline: normalizer, pre_tokenizer, model, post_processor, decoder, and tokens added
 * on top. weft has one pipeline, so reading is mostly proving that the file's is the same one. What changes
 * ids and is not supported is an error that names the feature; what only adds tokens around a text
 * (TemplateProcessing, the beginning-of-text token of Llama 3) is accepted and left to the caller, who asks
 * for `add_special_tokens=False` ids here. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/tokenizer/split.h"
#include "io/tokenizer/tok.h"

static weft_status unsupported(const char *what, const char *value) {
    return weft_fail(WEFT_ERR_UNSUPPORTED, "%s is %s, which weft's tokenizer does not support", what, value);
}

static const char *type_of(const json_t *o) {
    const char *s = json_string_value(json_object_get(o, "type"));
    return s ? s : "?";
}

static int is_type(const json_t *o, const char *type) {
    return !strcmp(type_of(o), type);
}

static int absent(const json_t *v) {
    return !v || json_is_null(v);
}

/* The value of a flag; `otherwise` where it is not given. */
static int flag_of(const json_t *o, const char *key, int otherwise) {
    const json_t *v = json_object_get(o, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static weft_status check_around(const json_t *root) {
    const json_t *version = json_object_get(root, "version");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        return weft_fail(WEFT_ERR_VERSION, "version is not \"1.0\", the one that weft reads");
    if (!absent(json_object_get(root, "truncation"))) return unsupported("truncation", "set");
    if (!absent(json_object_get(root, "padding"))) return unsupported("padding", "set");
    const json_t *norm = json_object_get(root, "normalizer");
    int empty = is_type(norm, "Sequence") && json_array_size(json_object_get(norm, "normalizers")) == 0;
    if (!absent(norm) && !empty) return unsupported("normalizer", type_of(norm));
    return WEFT_OK;
}

/* {"type": "Split", "pattern": {"Regex": "..."}, ...}: cutting at every match keeps all of the text under
 * "Isolated", and equally under "Removed" with invert, because the expressions leave nothing unmatched. */
static weft_status read_split(const json_t *o, weft_tok_split *split) {
    const char *regex = json_string_value(json_object_get(json_object_get(o, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(o, "behavior"));
    int invert = flag_of(o, "invert", 0);
    if (!regex) return unsupported("pre_tokenizer.Split.pattern", "not a Regex");
    if (!behavior || strcmp(behavior, invert ? "Removed" : "Isolated") != 0)
        return unsupported("pre_tokenizer.Split.behavior", behavior ? behavior : "missing");
    if (!tok_split_of_pattern(regex, split))
        return unsupported("the regular expression of pre_tokenizer.Split", regex);
    return WEFT_OK;
}

static weft_status read_byte_level(const json_t *o, int has_split) {
    if (flag_of(o, "add_prefix_space", 1))
        return unsupported("pre_tokenizer.ByteLevel.add_prefix_space", "true");
    int regex = flag_of(o, "use_regex", 1);
    if (has_split && regex) return unsupported("pre_tokenizer.ByteLevel.use_regex after a Split", "true");
    if (!has_split && !regex)
        return unsupported("pre_tokenizer.ByteLevel.use_regex without a Split", "false");
    return WEFT_OK;
}

static weft_status read_pre_tokenizer(const json_t *o, weft_tok_split *split) {
    *split = WEFT_SPLIT_GPT2;
    if (absent(o)) return unsupported("pre_tokenizer", "null");
    if (is_type(o, "ByteLevel")) return read_byte_level(o, 0);
    const json_t *list = json_object_get(o, "pretokenizers");
    if (!is_type(o, "Sequence") || json_array_size(list) < 1 || json_array_size(list) > 2)
        return unsupported("pre_tokenizer", type_of(o));
    const json_t *last = json_array_get(list, json_array_size(list) - 1);
    if (!is_type(last, "ByteLevel"))
        return unsupported("the last of pre_tokenizer.pretokenizers", type_of(last));
    if (json_array_size(list) == 1) return read_byte_level(last, 0);
    const json_t *first = json_array_get(list, 0);
    if (!is_type(first, "Split"))
        return unsupported("the first of pre_tokenizer.pretokenizers", type_of(first));
    WEFT_TRY(read_split(first, split));
    return read_byte_level(last, 1);
}

/* A decoder or post-processor: null, one of the accepted types, or a Sequence of those. */
static weft_status check_stage(const json_t *root, const char *key, const char *list_key,
                               const char *const *accepted) {
    const json_t *o = json_object_get(root, key);
    if (absent(o)) return WEFT_OK;
    const json_t *list = is_type(o, "Sequence") ? json_object_get(o, list_key) : NULL;
    size_t n = list ? json_array_size(list) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *stage = list ? json_array_get(list, i) : o;
        int ok = 0;
        for (size_t j = 0; accepted[j]; j++) ok |= is_type(stage, accepted[j]);
        if (!ok) return unsupported(key, type_of(stage));
    }
    return WEFT_OK;
}

static weft_status check_model(const json_t *model) {
    if (!json_is_object(model)) return weft_fail(WEFT_ERR_FORMAT, "model is missing");
    if (json_object_get(model, "type") && !is_type(model, "BPE"))
        return unsupported("model.type", type_of(model));
    const json_t *dropout = json_object_get(model, "dropout");
    if (!absent(dropout) && json_number_value(dropout) != 0) return unsupported("model.dropout", "set");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (!absent(affix) && json_string_length(affix) > 0)
            return weft_fail(WEFT_ERR_UNSUPPORTED, "model.%s is set, which weft's tokenizer does not support",
                             affixes[i]);
    }
    if (flag_of(model, "byte_fallback", 0)) return unsupported("model.byte_fallback", "true");
    if (!json_is_object(json_object_get(model, "vocab")))
        return weft_fail(WEFT_ERR_FORMAT, "model.vocab is no object");
    if (!json_is_array(json_object_get(model, "merges")))
        return weft_fail(WEFT_ERR_FORMAT, "model.merges is no list");
    return WEFT_OK;
}

static weft_status read_id(const json_t *v, const char *what, uint32_t *id) {
    char shown[TOK_NAME];
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= TOK_MAX_VOCAB)
        return weft_fail(WEFT_ERR_FORMAT, "the id of %s is no integer from 0 to %u",
                         tok_name(what, strlen(what), shown), TOK_MAX_VOCAB - 1);
    *id = (uint32_t)json_integer_value(v);
    return WEFT_OK;
}

static weft_status count_ids(json_t *vocab, const json_t *added, uint32_t *nids) {
    const char *text;
    json_t *v;
    uint32_t id = 0;
    *nids = 0;
    json_object_foreach(vocab, text, v) {
        WEFT_TRY_CTX(read_id(v, text, &id), "model.vocab");
        if (id >= *nids) *nids = id + 1;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i);
        const char *content = json_string_value(json_object_get(a, "content"));
        if (!content) return weft_fail(WEFT_ERR_FORMAT, "added_tokens[%zu] has no content", i);
        WEFT_TRY_CTX(read_id(json_object_get(a, "id"), content, &id), "added_tokens[%zu]", i);
        if (id >= *nids) *nids = id + 1;
    }
    return WEFT_OK;
}

static weft_status put_added(weft_tok *t, const json_t *vocab, const json_t *a) {
    const char *content = json_string_value(json_object_get(a, "content"));
    size_t n = json_string_length(json_object_get(a, "content"));
    uint32_t id = (uint32_t)json_integer_value(json_object_get(a, "id"));
    static const char *const flags[] = {"single_word", "lstrip", "rstrip"};
    char shown[TOK_NAME];
    for (size_t i = 0; i < 3; i++)
        if (flag_of(a, flags[i], 0))
            return weft_fail(WEFT_ERR_UNSUPPORTED,
                             "%s of %s is true, which weft's tokenizer does not support", flags[i],
                             tok_name(content, n, shown));
    const json_t *other = json_object_get(vocab, content);
    if (other && json_integer_value(other) != id)
        return weft_fail(WEFT_ERR_FORMAT, "%s has id %u here and another in model.vocab",
                         tok_name(content, n, shown), id);
    return tok_put(t, id, content, n, flag_of(a, "special", 0) ? TOK_SPECIAL : TOK_ADDED);
}

static weft_status put_vocab(weft_tok *t, json_t *vocab) {
    const char *text;
    json_t *v;
    json_object_foreach(vocab, text, v) {
        uint32_t id = (uint32_t)json_integer_value(v);
        size_t n = strlen(text);
        /* An added token stands in the vocabulary with its own text, not through the byte map. */
        int added = t->kind[id] >= TOK_ADDED && t->len[id] == n && !memcmp(t->bytes + t->off[id], text, n);
        if (!added) WEFT_TRY_CTX(tok_put_text(t, id, text, n), "model.vocab");
    }
    return WEFT_OK;
}

static weft_status add_merge(weft_tok *t, const json_t *m) {
    if (json_is_string(m)) return tok_add_merge_line(t, json_string_value(m), json_string_length(m));
    const json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
    if (json_array_size(m) != 2 || !json_is_string(a) || !json_is_string(b))
        return weft_fail(WEFT_ERR_FORMAT, "expected \"left right\" or [\"left\", \"right\"]");
    return tok_add_merge_text(t, json_string_value(a), json_string_length(a), json_string_value(b),
                              json_string_length(b));
}

static weft_status build(const json_t *model, const json_t *added, weft_tok *t) {
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    for (size_t i = 0; i < json_array_size(added); i++)
        WEFT_TRY_CTX(put_added(t, vocab, json_array_get(added, i)), "added_tokens[%zu]", i);
    WEFT_TRY(put_vocab(t, vocab));
    WEFT_TRY_CTX(tok_index(t), "model.vocab");
    for (size_t i = 0; i < json_array_size(merges); i++)
        WEFT_TRY_CTX(add_merge(t, json_array_get(merges, i)), "model.merges[%zu]", i);
    t->ignore_merges = flag_of(model, "ignore_merges", 0);
    return tok_finish(t);
}

static weft_status read_root(const json_t *root, weft_tok **t) {
    static const char *const processors[] = {"ByteLevel", "TemplateProcessing", NULL};
    static const char *const decoders[] = {"ByteLevel", NULL};
    weft_tok_split split;
    uint32_t nids;
    if (!json_is_object(root)) return weft_fail(WEFT_ERR_FORMAT, "expected an object");
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    WEFT_TRY(check_around(root));
    WEFT_TRY(check_model(model));
    WEFT_TRY(read_pre_tokenizer(json_object_get(root, "pre_tokenizer"), &split));
    WEFT_TRY(check_stage(root, "post_processor", "processors", processors));
    WEFT_TRY(check_stage(root, "decoder", "decoders", decoders));
    if (!absent(added) && !json_is_array(added)) return weft_fail(WEFT_ERR_FORMAT, "added_tokens is no list");
    WEFT_TRY(count_ids(json_object_get(model, "vocab"), added, &nids));
    WEFT_TRY(tok_new(nids, split, t));
    return build(model, added, *t);
}

weft_status weft_tok_parse_json(const char *name, const char *text, size_t n, weft_tok **out) {
    *out = NULL;
    json_error_t e;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!root) return weft_fail(WEFT_ERR_FORMAT, "%s:%d:%d: %s", name, e.line, e.column, e.text);
    weft_tok *t = NULL;
    weft_status s = read_root(root, &t);
    json_decref(root);
    if (s < 0) {
        weft_tok_destroy(t);
        return weft_context(s, "%s", name);
    }
    *out = t;
    return WEFT_OK;
}
