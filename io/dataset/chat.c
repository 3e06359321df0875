/* Templates. Each message is a header, its content and an end; content and end of what the assistant says are learnt,
 * so that a model learns to stop. Parts are tokenized one by one: where one ends, a token ends, and the mask is exact.
 *
 *   chatml   <|im_start|>ROLE\n CONTENT <|im_end|> \n                                        (OpenAI's format, 2023)
 *   llama3   <|begin_of_text|>, then <|start_header_id|> ROLE <|end_header_id|> \n\n CONTENT, without white space
 *            around it, <|eot_id|>                                                           (Llama 3 model card, 2024)
 *   plain    ROLE ": " CONTENT, end of text behind the assistant, \n; of {"prompt", "completion"}: both as they are, and
 *            end of text */
#include "io/dataset/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static const char *const chatml_markers[] = {"<|im_start|>", "<|im_end|>", NULL};
static const char *const llama3_markers[] = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                                             "<|eot_id|>", NULL};

const char *const *weft_chat_markers(weft_chat template) {
    static const char *const none[] = {NULL};
    return template == WEFT_CHAT_CHATML   ? chatml_markers
           : template == WEFT_CHAT_LLAMA3 ? llama3_markers
                                          : none;
}

void chat_free(chat *c) {
    free(c->part);
    *c = (chat){0};
}

static weft_status put(chat *c, chat_part part) {
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 32;
        chat_part *p = weft_reallocarray(c->part, cap, sizeof *p);
        if (!p) return WEFT_ERR_NOMEM;
        c->part = p;
        c->cap = cap;
    }
    c->part[c->n++] = part;
    return WEFT_OK;
}

static weft_status put_name(chat *c, chat_kind kind, int learn, const char *text) {
    return put(c, (chat_part){.kind = kind, .learn = learn, .text = text, .n = strlen(text)});
}

static weft_status put_content(chat *c, int learn, const char *text, size_t n) {
    return n ? put(c, (chat_part){.kind = CHAT_TEXT, .learn = learn, .content = 1, .text = text, .n = n})
             : WEFT_OK;
}

typedef struct message {
    const char *role, *content;
    size_t n;
    int learn;
} message;

static weft_status chatml(chat *c, const message *m) {
    WEFT_TRY(put_name(c, CHAT_MARKER, 0, chatml_markers[0]));
    WEFT_TRY(put_name(c, CHAT_TEXT, 0, m->role));
    WEFT_TRY(put_name(c, CHAT_TEXT, 0, "\n"));
    WEFT_TRY(put_content(c, m->learn, m->content, m->n));
    WEFT_TRY(put_name(c, CHAT_MARKER, m->learn, chatml_markers[1]));
    return put_name(c, CHAT_TEXT, 0, "\n");
}

static int white(char ch) {
    return ch == ' ' || (ch >= '\t' && ch <= '\r');
}

static weft_status llama3(chat *c, const message *m) {
    const char *s = m->content;
    size_t n = m->n;
    for (; n && white(*s); n--) s++;
    while (n && white(s[n - 1])) n--;
    WEFT_TRY(put_name(c, CHAT_MARKER, 0, llama3_markers[1]));
    WEFT_TRY(put_name(c, CHAT_TEXT, 0, m->role));
    WEFT_TRY(put_name(c, CHAT_MARKER, 0, llama3_markers[2]));
    WEFT_TRY(put_name(c, CHAT_TEXT, 0, "\n\n"));
    WEFT_TRY(put_content(c, m->learn, s, n));
    return put_name(c, CHAT_MARKER, m->learn, llama3_markers[3]);
}

static weft_status plain(chat *c, const message *m) {
    WEFT_TRY(put_name(c, CHAT_TEXT, 0, m->role));
    WEFT_TRY(put_name(c, CHAT_TEXT, 0, ": "));
    WEFT_TRY(put_content(c, m->learn, m->content, m->n));
    if (m->learn) WEFT_TRY(put_name(c, CHAT_END, 1, ""));
    return put_name(c, CHAT_TEXT, 0, "\n");
}

static weft_status put_message(chat *c, weft_chat template, const message *m) {
    return template == WEFT_CHAT_CHATML   ? chatml(c, m)
           : template == WEFT_CHAT_LLAMA3 ? llama3(c, m)
                                          : plain(c, m);
}

static int proper_role(const char *s) {
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n >= 1 && n <= CHAT_MAX_ROLE && !s[n];
}

static weft_status read_message(const char *where, size_t number, const json_t *o, message *m) {
    const json_t *role = json_object_get(o, "role"), *content = json_object_get(o, "content");
    if (!json_is_object(o) || !json_is_string(role) || !json_is_string(content))
        return weft_fail(WEFT_ERR_FORMAT, "%s: message %zu is not {\"role\": text, \"content\": text}", where,
                         number);
    m->role = json_string_value(role);
    if (strlen(m->role) != json_string_length(role) || !proper_role(m->role))
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: the role of message %zu is not a word of letters, digits, _ and -", where,
                         number);
    m->content = json_string_value(content);
    m->n = json_string_length(content);
    m->learn = !strcmp(m->role, "assistant");
    return WEFT_OK;
}

static weft_status render_messages(const char *where, const json_t *list, weft_chat template, chat *c) {
    size_t n = json_array_size(list);
    int learnt = 0;
    if (n < 1 || n > CHAT_MAX_MESSAGES)
        return weft_fail(WEFT_ERR_FORMAT, "%s: \"messages\" is not a list of 1 to %d messages", where,
                         CHAT_MAX_MESSAGES);
    for (size_t i = 0; i < n; i++) {
        message m = {.role = "", .content = ""};
        WEFT_TRY(read_message(where, i + 1, json_array_get(list, i), &m));
        WEFT_TRY(put_message(c, template, &m));
        learnt |= m.learn && m.n;
    }
    return learnt
               ? WEFT_OK
               : weft_fail(WEFT_ERR_FORMAT, "%s: no message of the role assistant: nothing to learn", where);
}

static weft_status render_pair(const char *where, const json_t *prompt, const json_t *completion,
                               weft_chat template, chat *c) {
    if (!json_is_string(prompt) || !json_is_string(completion) || !json_string_length(completion))
        return weft_fail(WEFT_ERR_FORMAT,
                         "%s: \"prompt\" or \"completion\" is no text, or the completion is empty", where);
    message ask = {"user", json_string_value(prompt), json_string_length(prompt), 0};
    message answer = {"assistant", json_string_value(completion), json_string_length(completion), 1};
    if (template != WEFT_CHAT_PLAIN) {
        WEFT_TRY(put_message(c, template, &ask));
        return put_message(c, template, &answer);
    }
    WEFT_TRY(put_content(c, 0, ask.content, ask.n));
    WEFT_TRY(put_content(c, 1, answer.content, answer.n));
    return put_name(c, CHAT_END, 1, "");
}

weft_status chat_render(const char *where, const json_t *o, weft_chat template, chat *c) {
    const json_t *messages = json_object_get(o, "messages"), *prompt = json_object_get(o, "prompt"),
                 *completion = json_object_get(o, "completion");
    c->n = 0;
    if (template == WEFT_CHAT_LLAMA3) WEFT_TRY(put_name(c, CHAT_BEGIN, 0, llama3_markers[0]));
    if (messages) return render_messages(where, messages, template, c);
    if (prompt && completion) return render_pair(where, prompt, completion, template, c);
    return weft_fail(
        WEFT_ERR_FORMAT,
        "%s: neither \"messages\" nor \"prompt\" and \"completion\", which a chat template needs", where);
}
