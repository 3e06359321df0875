/* The forwarding loop; see forward.h. A heap of (time, order of entry) holds what is on its way; the loop hands on what
 * is due, reads what the sites have sent, and sleeps until the next of either. */
#include "tests/wan/forward.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

enum { STAGE_FLOW, STAGE_EGRESS, STAGE_LINK, STAGE_INGRESS, STAGE_OUT };

#define READS      64 /* of one device before the others have their turn */
#define HEADER     20 /* of IPv4 without options */
#define PROTO_TCP  6
#define PROTO_UDP  17
#define SLACK_NS   1 /* of the kernel's timers for this thread */
#define MOST_HEAP  (1u << 20)
#define PCAP_MAGIC 0xA1B2C3D4u
#define PCAP_RAW   101

static uint16_t get16(const unsigned char *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(unsigned char *p, uint32_t v) {
    p[0] = (unsigned char)(v >> 8);
    p[1] = (unsigned char)v;
}

static uint32_t header_of(const wan_packet *p) {
    return (uint32_t)(p->data[0] & 15) * 4;
}

static weft_status open_pipes(wan_forward *f) {
    char name[32];
    for (int a = 0; a < f->net->sites; a++) {
        snprintf(name, sizeof name, "egress %d", a);
        wan_pipe_init(&f->egress[a], f->seed, name);
        snprintf(name, sizeof name, "ingress %d", a);
        wan_pipe_init(&f->ingress[a], f->seed, name);
        for (int b = 0; b < f->net->sites; b++) {
            snprintf(name, sizeof name, "link %d>%d", a, b);
            wan_pipe_init(&f->link[a][b], f->seed, name);
        }
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)a};
        if (epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->net->tun[a], &e) != 0)
            return weft_fail_errno(errno, "epoll");
    }
    return WEFT_OK;
}

weft_status wan_forward_open(wan_forward *f, wan_net *net, uint64_t seed) {
    memset(f, 0, sizeof *f);
    f->net = net;
    f->seed = seed;
    f->capture = -1;
    weft_hist_reset(&f->late);
    prctl(PR_SET_TIMERSLACK, SLACK_NS);
    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (f->epoll < 0) return weft_fail_errno(errno, "epoll");
    return open_pipes(f);
}

void wan_forward_close(wan_forward *f) {
    for (size_t i = 0; i < f->waiting; i++) free(f->heap[i].packet);
    while (f->unused) {
        wan_packet *p = f->unused;
        f->unused = p->next;
        free(p);
    }
    free(f->heap);
    if (f->capture >= 0) close(f->capture);
    if (f->epoll >= 0) close(f->epoll);
}

weft_status wan_forward_capture(wan_forward *f, const char *path) {
    const struct {
        uint32_t magic;
        uint16_t major, minor;
        uint32_t zone, digits, most, link;
    } head = {PCAP_MAGIC, 2, 4, 0, 0, 65535, PCAP_RAW};
    f->capture = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (f->capture < 0) return weft_fail_create(errno, "%s", path);
    f->capture_path = path;
    return weft_write_all(f->capture, &head, sizeof head, path);
}

/* A capture that cannot be written ends there: half a packet would spoil what stands before it. */
static void record(wan_forward *f, const wan_packet *p) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint32_t head[4] = {(uint32_t)t.tv_sec, (uint32_t)(t.tv_nsec / 1000), p->bytes, p->bytes};
    struct iovec v[2] = {{head, sizeof head}, {(void *)(uintptr_t)p->data, p->bytes}};
    if (writev(f->capture, v, 2) == (ssize_t)(sizeof head + p->bytes)) return;
    close(f->capture);
    f->capture = -1;
}

weft_status wan_forward_flow(wan_forward *f, int src, int dst, uint16_t port, int nth,
                             const wan_shape *shape) {
    char name[32];
    if (f->flows == WAN_FLOWS) return weft_fail(WEFT_ERR_ARG, "more than %d rules for flows", WAN_FLOWS);
    wan_flow *w = &f->flow[f->flows];
    *w = (wan_flow){.src = src, .dst = dst, .port = port, .nth = nth};
    snprintf(name, sizeof name, "flow %d", f->flows++);
    wan_pipe_init(&w->pipe, f->seed, name);
    w->pipe.shape = *shape;
    return WEFT_OK;
}

/* --- packets and the heap --- */

static wan_packet *take(wan_forward *f) {
    wan_packet *p = f->unused;
    if (p)
        f->unused = p->next;
    else
        p = malloc(sizeof *p + (size_t)f->net->mtu);
    return p;
}

static void give(wan_forward *f, wan_packet *p) {
    p->next = f->unused;
    f->unused = p;
}

static int before(const wan_due *a, const wan_due *b) {
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static int grow(wan_forward *f) {
    if (f->waiting < f->room) return 1;
    const size_t room = f->room ? 2 * f->room : 1024;
    wan_due *heap = room > MOST_HEAP ? NULL : weft_reallocarray(f->heap, room, sizeof *heap);
    if (!heap) return 0;
    f->heap = heap;
    f->room = room;
    return 1;
}

static void push(wan_forward *f, uint64_t at_ns, wan_packet *p) {
    if (!grow(f)) {
        f->no_memory++;
        give(f, p);
        return;
    }
    const wan_due d = {at_ns, f->order++, p};
    size_t i = f->waiting++;
    for (; i > 0 && before(&d, &f->heap[(i - 1) / 2]); i = (i - 1) / 2) f->heap[i] = f->heap[(i - 1) / 2];
    f->heap[i] = d;
}

static wan_due pop(wan_forward *f) {
    const wan_due top = f->heap[0], last = f->heap[--f->waiting];
    size_t i = 0;
    for (size_t child = 1; child < f->waiting; i = child, child = 2 * i + 1) {
        if (child + 1 < f->waiting && before(&f->heap[child + 1], &f->heap[child])) child++;
        if (!before(&f->heap[child], &last)) break;
        f->heap[i] = f->heap[child];
    }
    f->heap[i] = last;
    return top;
}

/* --- what pipes do to bytes --- */

static uint32_t folded(uint32_t sum) {
    while (sum >> 16) sum = (sum & 0xFFFF) + (sum >> 16);
    return sum;
}

/* Where the checksum of the transport stands, or 0. */
static uint32_t checksum_at(const wan_packet *p) {
    const uint32_t h = header_of(p);
    const int proto = p->data[9], fragment = get16(p->data + 6) & 0x1FFF;
    if (fragment) return 0;
    if (proto == PROTO_TCP && p->bytes >= h + 20) return h + 16;
    if (proto == PROTO_UDP && p->bytes >= h + 8) return h + 6;
    return 0;
}

/* Length of the header of the transport. */
static uint32_t transport_of(const wan_packet *p) {
    const uint32_t h = header_of(p);
    return p->data[9] == PROTO_TCP ? (uint32_t)(p->data[h + 12] >> 4) * 4 : 8;
}

/* Flips one bit behind the IP header; a forged one lies in the payload and its checksum is carried along (RFC 1624). */
static void damage(wan_packet *p, const wan_fate *fate) {
    const uint32_t sum = checksum_at(p);
    uint32_t from = header_of(p);
    if (fate->forge && sum) from += transport_of(p);
    if (from >= p->bytes) return;
    const uint64_t bit = fate->bit % ((uint64_t)(p->bytes - from) * 8);
    const uint32_t at = from + (uint32_t)(bit / 8);
    const uint32_t even =
        at - ((at - header_of(p)) & 1); /* checksums add 16-bit words from the transport's start */
    unsigned char pair[2] = {p->data[even], even + 1 < p->bytes ? p->data[even + 1] : 0};
    const uint32_t old = get16(pair);
    p->data[at] ^= (unsigned char)(1u << bit % 8);
    pair[at - even] = p->data[at];
    if (!fate->forge || !sum) return;
    const uint32_t check = folded((~(uint32_t)get16(p->data + sum) & 0xFFFF) + (~old & 0xFFFF) + get16(pair));
    put16(p->data + sum, ~check & 0xFFFF);
}

/* --- the way --- */

/* Counts connections that begin, so that the nth of them is known. */
static int is_of_flow(wan_flow *w, const wan_packet *p) {
    const uint32_t h = header_of(p);
    const int forth = p->src == w->src && p->dst == w->dst, back = p->src == w->dst && p->dst == w->src;
    if ((!forth && !back) || p->bytes < h + 4 || (get16(p->data + 6) & 0x1FFF)) return 0;
    const uint16_t from = get16(p->data + h), to = get16(p->data + h + 2);
    const uint64_t key = forth ? (uint64_t)from << 16 | to : (uint64_t)to << 16 | from;
    if (w->port && from != w->port && to != w->port) return 0;
    if (!w->nth) return forth;
    const int begins = p->data[9] == PROTO_TCP && p->bytes >= h + 14 && (p->data[h + 13] & 0x12) == 0x02;
    if (begins && key != w->key && w->seen < w->nth && (!w->port || to == w->port)) {
        w->seen++;
        w->key = key;
    }
    return forth && w->seen == w->nth && key == w->key;
}

static wan_pipe *flow_of(wan_forward *f, const wan_packet *p) {
    wan_pipe *found = NULL;
    for (int i = 0; i < f->flows; i++)
        if (is_of_flow(&f->flow[i], p) && !found) found = &f->flow[i].pipe;
    return found;
}

static wan_pipe *pipe_of(wan_forward *f, const wan_packet *p) {
    switch (p->stage) {
    case STAGE_FLOW: return f->flows ? flow_of(f, p) : NULL;
    case STAGE_EGRESS: return &f->egress[p->src];
    case STAGE_LINK: return &f->link[p->src][p->dst];
    default: return &f->ingress[p->dst];
    }
}

static void copy(wan_forward *f, const wan_packet *p, uint64_t at_ns) {
    wan_packet *c = take(f);
    if (!c) {
        f->no_memory++;
        return;
    }
    memcpy(c, p, sizeof *p + p->bytes);
    push(f, at_ns, c);
}

/* Takes a packet as far as it gets by now_ns. */
static void advance(wan_forward *f, wan_packet *p, uint64_t now_ns) {
    while (p->stage < STAGE_OUT) {
        wan_pipe *pipe = pipe_of(f, p);
        p->stage++;
        if (!pipe || wan_pipe_is_open(pipe)) {
            if (pipe) {
                pipe->n.packets++, pipe->n.out++;
                pipe->n.bytes += p->bytes, pipe->n.out_bytes += p->bytes;
            }
            continue;
        }
        const wan_fate fate = wan_pipe_pass(pipe, now_ns, p->bytes);
        if (!fate.copies) {
            give(f, p);
            return;
        }
        if (fate.flip) damage(p, &fate);
        if (fate.copies > 1) copy(f, p, fate.due_ns[1]);
        if (fate.due_ns[0] > now_ns) {
            push(f, fate.due_ns[0], p);
            return;
        }
    }
    if (write(f->net->tun[p->dst], p->data, p->bytes) != (ssize_t)p->bytes) f->refused++;
    give(f, p);
}

/* Hands on what is due. Its time is the one it was due at: what was late is made good on the next leg. */
static uint64_t deliver(wan_forward *f, uint64_t now_ns) {
    while (f->waiting && f->heap[0].at_ns <= now_ns) {
        const wan_due d = pop(f);
        weft_hist_add(&f->late, now_ns - d.at_ns);
        advance(f, d.packet, d.at_ns);
        now_ns = weft_now_ns();
    }
    return now_ns;
}

static int enter(wan_forward *f, wan_packet *p, int src, ssize_t n) {
    p->bytes = (uint32_t)n;
    p->stage = STAGE_FLOW;
    p->src = src;
    if (n < HEADER || p->data[0] >> 4 != 4 || header_of(p) < HEADER || header_of(p) > p->bytes) return 0;
    const uint32_t to = (uint32_t)get16(p->data + 16) << 16 | get16(p->data + 18);
    p->dst = wan_net_site_of(f->net, to);
    return p->dst >= 0 && p->dst != src;
}

static void collect(wan_forward *f, int site) {
    for (int i = 0; i < READS; i++) {
        wan_packet *p = take(f);
        if (!p) {
            f->no_memory++;
            return;
        }
        const ssize_t n = read(f->net->tun[site], p->data, (size_t)f->net->mtu);
        if (n <= 0) {
            give(f, p);
            return;
        }
        if (!enter(f, p, site, n)) {
            f->stray++;
            give(f, p);
            continue;
        }
        if (f->capture >= 0) record(f, p);
        const uint64_t now = deliver(f, weft_now_ns()); /* in order of time */
        advance(f, p, now);
    }
}

static struct timespec span(uint64_t from_ns, uint64_t to_ns) {
    const uint64_t d = to_ns > from_ns ? to_ns - from_ns : 0;
    return (struct timespec){.tv_sec = (time_t)(d / 1000000000u), .tv_nsec = (long)(d % 1000000000u)};
}

weft_status wan_forward_run(wan_forward *f, uint64_t until_ns) {
    struct epoll_event e[WAN_SITES];
    for (;;) {
        const uint64_t now = deliver(f, weft_now_ns());
        if (now >= until_ns) return WEFT_OK;
        const uint64_t next = f->waiting && f->heap[0].at_ns < until_ns ? f->heap[0].at_ns : until_ns;
        const struct timespec sleep = span(now, next);
        const int n = epoll_pwait2(f->epoll, e, WAN_SITES, &sleep, NULL);
        if (n < 0 && errno == EINTR) return WEFT_OK;
        if (n < 0) return weft_fail_errno(errno, "epoll");
        for (int i = 0; i < n; i++) collect(f, (int)e[i].data.u32);
    }
}
