/* A strict reader of pages: they are well-formed XML as well as HTML. Behind scratch.h. */
#ifndef WEFT_TESTS_IO_REPORT_MALFORMED_H
#define WEFT_TESTS_IO_REPORT_MALFORMED_H

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Checks tags and attributes against each other, entities and raw markup characters; NULL if all is well. */
static const char *malformed(const char *p, char *where, size_t cap) {
    static char stack[64][16];
    int depth = 0, roots = 0;
    if (strncmp(p, "<!DOCTYPE html>", 15) != 0) return "no doctype";
    for (p += 15; *p;) {
        snprintf(where, cap, "%.60s", p);
        if (*p == '&') {
            size_t n = 1 + (p[1] == '#');
            while (isalnum((unsigned char)p[n])) n++;
            if (n < 2 || p[n] != ';') return "a bare &";
            p += n + 1;
        } else if (*p == '>' && (!depth || strcmp(stack[depth - 1], "style") != 0)) {
            return "a bare >";
        } else if (*p != '<') {
            if (!depth && !isspace((unsigned char)*p)) return "text outside the root";
            p++;
        } else {
            int closing = p[1] == '/';
            char name[16] = "";
            size_t n = 0;
            for (p += 1 + closing; isalnum((unsigned char)*p); p++)
                if (n < 15) name[n++] = *p;
            if (!n) return "a bare <";
            while (*p && *p != '>' && *p != '/') {
                if (isspace((unsigned char)*p)) {
                    p++;
                    continue;
                }
                size_t attribute = strcspn(p, "=\"<>/ ");
                if (closing || !attribute || p[attribute] != '=' || p[attribute + 1] != '"')
                    return "an attribute";
                p += attribute + 2;
                size_t value = strcspn(p, "\"<>");
                if (p[value] != '"') return "an attribute's value";
                p += value + 1;
            }
            int empty = *p == '/';
            p += empty;
            if (*p++ != '>') return "an open tag";
            if (closing) {
                if (!depth || strcmp(stack[depth - 1], name) != 0) return "a tag closed that was not open";
                depth--;
            } else if (!empty) {
                if (depth == 64) return "too deep";
                if (!depth && roots++) return "two roots";
                strcpy(stack[depth++], name);
            }
        }
    }
    return depth ? "a tag left open" : NULL;
}

#endif
