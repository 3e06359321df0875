/* Where the hub is. Given as @FILE, its address is looked up there again and again: a hub that a job carries may begin
 * anew on another machine, and whoever starts it writes where. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "runtime/sites/sites_internal.h"

#define LOOK_NS 2000000000ull

static weft_status read_address(const char *path, char *out, size_t cap) {
    char *text = NULL;
    size_t n = 0;
    WEFT_TRY(weft_file_read(path, 4096, &text, &n));
    const size_t len = strcspn(text, " \t\r\n");
    weft_status r = WEFT_OK;
    if (len == 0 || len >= cap || memchr(text, 0, n))
        r = weft_fail(WEFT_ERR_FORMAT, "%s: expected one line, HOST:PORT", path);
    else
        snprintf(out, cap, "%.*s", (int)len, text);
    free(text);
    return r;
}

weft_status site_hub_find(weft_sites *s, const char *given) {
    if (given[0] == '@') {
        s->hub_file = given + 1;
        return weft_context(read_address(s->hub_file, s->hub_address, sizeof s->hub_address),
                            "where the hub is");
    }
    if (strlen(given) >= sizeof s->hub_address)
        return weft_fail(WEFT_ERR_CONFIG, "the hub's address is too long: \"%s\"", given);
    snprintf(s->hub_address, sizeof s->hub_address, "%s", given);
    return WEFT_OK;
}

void site_hub_look(weft_sites *s, uint64_t now) {
    char address[sizeof s->hub_address];
    if (!s->hub_file || now < s->look_ns) return;
    s->look_ns = now + LOOK_NS;
    if (read_address(s->hub_file, address, sizeof address) < 0 || !strcmp(address, s->hub_address)) return;
    weft_info("the hub has moved from %s to %s", s->hub_address, address);
    snprintf(s->hub_address, sizeof s->hub_address, "%s", address);
    site_redial(s);
}
