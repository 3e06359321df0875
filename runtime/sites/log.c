/* The front of the log: packing, the chain, what has failed stays failed; see log.h. The file behind it: log_file.c. */
#include "runtime/sites/log.h"

#include <string.h>

#include "base/mem.h"

static weft_status usable(const weft_hub_log *l) {
    if (!l->failed) return WEFT_OK;
    return weft_fail(WEFT_ERR_STATE, "the log failed before: this hub has to end; start it again");
}

weft_status weft_hub_log_append(weft_hub_log *l, uint64_t term, uint64_t unix_ns, uint16_t type,
                                const void *body, size_t n, weft_log_record *out) {
    weft_log_record r = {.seq = l->seq + 1, .term = term, .unix_ns = unix_ns, .type = type, .body = body};
    WEFT_TRY(usable(l));
    if (term < l->term)
        return weft_fail(WEFT_ERR_ARG, "a record of term %llu behind one of term %llu",
                         (unsigned long long)term, (unsigned long long)l->term);
    if (n > WEFT_RECORD_MAX) return weft_fail(WEFT_ERR_ARG, "a log record with a body of %zu bytes", n);
    r.body_bytes = (uint32_t)n;
    memcpy(r.prev, l->chain, sizeof r.prev);
    WEFT_TRY(weft_record_pack(&r, l->buf, WEFT_RECORD_MAX));
    const weft_status s = l->ops->append(l, &r);
    if (s < 0) {
        l->failed = 1;
        return s;
    }
    l->seq = r.seq;
    l->term = term;
    memcpy(l->chain, r.chain, sizeof r.chain);
    if (out) *out = r;
    return WEFT_OK;
}

weft_status weft_hub_log_sync(weft_hub_log *l) {
    WEFT_TRY(usable(l));
    if (l->synced == l->seq) return WEFT_OK;
    const weft_status s = l->ops->sync(l);
    if (s < 0) {
        l->failed = 1;
        return s;
    }
    l->synced = l->seq;
    return WEFT_OK;
}

weft_status weft_hub_log_read(weft_hub_log *l, uint64_t seq, weft_log_record *r) {
    if (!seq || seq > l->seq)
        return weft_fail(WEFT_ERR_NOTFOUND, "record %llu: the log has records 1 to %llu",
                         (unsigned long long)seq, (unsigned long long)l->seq);
    return l->ops->read(l, seq, r);
}

weft_status weft_hub_log_lease(weft_hub_log *l) {
    WEFT_TRY(usable(l));
    return l->ops->lease(l);
}

void weft_hub_log_close(weft_hub_log *l) {
    if (l) l->ops->close(l);
}

weft_status weft_hub_log_compare(weft_hub_log *l, uint64_t seq, const uint8_t chain[WEFT_CHAIN_BYTES]) {
    weft_log_record r;
    if (!seq) return WEFT_OK;
    if (seq > l->seq)
        return weft_fail(
            WEFT_ERR_HUB_STALE,
            "a site has seen record %llu, this log ends at %llu: it is an old backup or another run's log; "
            "bring back the newer one (weft hub verify-log DIR shows what a directory holds)",
            (unsigned long long)seq, (unsigned long long)l->seq);
    WEFT_TRY(weft_hub_log_read(l, seq, &r));
    if (memcmp(r.chain, chain, WEFT_CHAIN_BYTES) != 0)
        return weft_fail(
            WEFT_ERR_HUB_STALE,
            "a site has seen another record %llu than this log holds: one of them is of another history",
            (unsigned long long)seq);
    return WEFT_OK;
}
