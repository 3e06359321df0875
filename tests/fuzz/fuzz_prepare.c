/* Fuzz target: what a preparation parses. The first byte chooses: a conversation in each template, a line of text, the
 * state or the identity of an unfinished preparation. Nothing may crash or leak; a rendered conversation must have
 * something to learn, and parts that lie in its text; the fast reader of lines must agree with jansson; a state that is
 * accepted is written and read back as itself. */
#include <stdlib.h>
#include <string.h>

#include "io/dataset/journal.h"
#include "io/dataset/json_line.h"
#include "io/dataset/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void try_chat(weft_chat template, const char *text, size_t n) {
    const jsonl_form form = {"text", template};
    jsonl_text t = {0};
    if (jsonl_parse("fuzz", 2, text, n, &form, &t) == WEFT_OK && t.found) {
        size_t learnt = 0, bytes = 0;
        for (size_t i = 0; i < t.chat.n; i++) {
            const chat_part *p = &t.chat.part[i];
            if (p->content) bytes += p->n;
            learnt += p->learn && (p->n || p->kind == CHAT_END);
        }
        if (!learnt || bytes > n) abort();
    }
    jsonl_end(&t);
}

/* The fast reader of a line against jansson: it may pass, but never find another text or one where there is none. */
static void try_line(const char *text, size_t n) {
    char *room = NULL;
    const char *found = NULL;
    size_t cap = 0, len = 0;
    int ok = 0;
    if (json_line_text(text, n, "text", &room, &cap, &found, &len, &ok) < 0) abort();
    if (ok) {
        json_t *o = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        const json_t *v = json_object_get(o, "text");
        if (!json_is_string(v) || json_string_length(v) != len ||
            memcmp(json_string_value(v), found, len) != 0)
            abort();
        json_decref(o);
    }
    free(room);
}

static void try_state(const char *text, size_t n) {
    journal_state s, again;
    char *json = NULL;
    if (journal_parse(text, n, &s) < 0) return;
    if (journal_format(&s, &json) < 0 || journal_parse(json, strlen(json), &again) < 0) abort();
    if (s.at != again.at || s.input != again.input || memcmp(s.side, again.side, sizeof s.side) != 0) abort();
    free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (!n) return 0;
    char *text = malloc(n); /* exactly as long: reading past the end shows */
    if (!text) return 0;
    /* a seed is a file as it is: its first byte is '{' */
    size_t from = data[0] == '{' ? 0 : 1, len = n - from;
    memcpy(text, data + from, len);
    int choice = data[0] == '{' ? 3 : data[0] % 5;
    if (choice < 3) try_chat((weft_chat)(WEFT_CHAT_PLAIN + choice), text, len);
    if (choice == 3) {
        for (int c = WEFT_CHAT_PLAIN; c <= WEFT_CHAT_LLAMA3; c++) try_chat((weft_chat)c, text, len);
        try_state(text, len);
        try_line(text, len);
    }
    if (choice == 4 && len) {
        text[len - 1] = 0;
        (void)journal_compare(text, "{\"format\":\"weft-prepare\",\"holdout\":0.5,\"inputs\":[[\"a\",1,2]]}");
    }
    free(text);
    return 0;
}
