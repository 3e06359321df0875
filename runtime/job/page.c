/* The control page in /dev/shm.
 *
 * Only the agent makes, sizes and removes the file, so what is mapped stays as long as it was (a rank that maps less than
 * the header says is refused; nobody cuts it afterwards but an outsider with this user's rights). A name in a directory
 * that everybody may write to is a trap: the file is opened without following links, and must be a plain file with one
 * name, of this user, that nobody else may write. */
#include "runtime/job/page.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "weft/job.h"

static int plain_word(const char *text) {
    const char *allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    const size_t n = strlen(text);
    return n > 0 && n <= 64 && strspn(text, allowed) == n;
}

weft_status job_page_name(char name[JOB_PAGE_NAME]) {
    static const char *const part[] = {"SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURMD_NODENAME", "WEFT_CELL"};
    const char *value[4] = {NULL}, *path = getenv("WEFT_JOB_PAGE");
    name[0] = 0;
    if (path && *path) {
        if (strlen(path) >= JOB_PAGE_NAME)
            return weft_fail(WEFT_ERR_CONFIG, "WEFT_JOB_PAGE is longer than %d bytes", JOB_PAGE_NAME - 1);
        snprintf(name, JOB_PAGE_NAME, "%s", path);
        return WEFT_OK;
    }
    for (int i = 0; i < 4; i++) {
        value[i] = getenv(part[i]);
        if (i == 0 && !value[i]) value[i] = "cluster"; /* Slurm before 21.08 does not say */
        if (i < 3 && !value[i])
            return weft_fail(WEFT_ERR_UNSUPPORTED, "not a step of a Slurm job: %s is not set", part[i]);
        if (value[i] && *value[i] && !plain_word(value[i]))
            return weft_fail(WEFT_ERR_CONFIG, "%s=%.80s: letters, digits, '_', '.', '-' expected", part[i],
                             value[i]);
    }
    const int cell = value[3] && *value[3];
    snprintf(name, JOB_PAGE_NAME, "/dev/shm/weft-%.64s-%.64s-%.64s%s%.64s", value[0], value[1], value[2],
             cell ? "-c" : "", cell ? value[3] : "");
    return WEFT_OK;
}

static size_t page_bytes(uint32_t ranks) {
    return sizeof(job_page_head) + ranks * sizeof(job_slot);
}

static weft_status map(int fd, size_t bytes, job_page *p) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return weft_fail_errno(errno, "mapping the control page");
    p->head = at;
    p->slot = (job_slot *)(p->head + 1);
    p->bytes = bytes;
    return WEFT_OK;
}

static weft_status check_file(int fd, struct stat *st) {
    if (fstat(fd, st) < 0) return weft_fail_errno(errno, "stat");
    if (!S_ISREG(st->st_mode) || st->st_uid != geteuid() || st->st_nlink > 1 || (st->st_mode & 022))
        return weft_fail(WEFT_ERR_ACCESS, "not a plain file of this user that nobody else may write");
    if (st->st_size < (off_t)page_bytes(1) || st->st_size > (off_t)page_bytes(JOB_PAGE_RANKS_MOST))
        return weft_fail(WEFT_ERR_FORMAT, "%lld bytes are not a control page", (long long)st->st_size);
    return WEFT_OK;
}

static weft_status check_head(job_page *p) {
    if (p->head->magic != JOB_PAGE_MAGIC) return weft_fail(WEFT_ERR_FORMAT, "not a control page");
    if (p->head->version != JOB_PAGE_VERSION)
        return weft_fail(WEFT_ERR_VERSION, "a control page of version %u, this weft knows %u",
                         p->head->version, JOB_PAGE_VERSION);
    p->ranks = p->head->ranks;
    if (!p->ranks || p->ranks > JOB_PAGE_RANKS_MOST || page_bytes(p->ranks) != p->bytes)
        return weft_fail(WEFT_ERR_FORMAT, "a control page of %u ranks has not %zu bytes", p->ranks, p->bytes);
    return WEFT_OK;
}

static weft_status open_page(const char *name, job_page *p) {
    struct stat st;
    *p = (job_page){.head = NULL};
    const int fd = open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ELOOP) return weft_fail(WEFT_ERR_ACCESS, "a link, not a control page");
    if (fd < 0) return weft_fail_errno(errno, "open");
    weft_status s = check_file(fd, &st);
    if (s >= 0) s = map(fd, (size_t)st.st_size, p);
    if (s >= 0) s = check_head(p);
    close(fd);
    if (s < 0) job_page_close(p);
    return s;
}

weft_status job_page_open(const char *name, job_page *p) {
    WEFT_TRY_CTX(open_page(name, p), "control page %s", name);
    return WEFT_OK;
}

/* Made under another name and linked to its own: no rank ever sees half a page. */
static weft_status make(const char *name, const uint64_t run[2], uint32_t ranks, job_page *p) {
    char fresh[JOB_PAGE_NAME + 16];
    snprintf(fresh, sizeof fresh, "%s.%ld", name, (long)getpid());
    (void)unlink(fresh);
    const int fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return weft_fail_create(errno, "%s", fresh);
    const int e =
        posix_fallocate(fd, 0, (off_t)page_bytes(ranks)); /* a full /dev/shm is an error here, not SIGBUS */
    weft_status s = e ? weft_fail_errno(e, "%s", fresh) : map(fd, page_bytes(ranks), p);
    close(fd);
    if (s >= 0) {
        p->ranks = ranks;
        p->head->magic = JOB_PAGE_MAGIC;
        p->head->version = JOB_PAGE_VERSION;
        p->head->ranks = ranks;
        memcpy(p->head->run, run, sizeof p->head->run);
        if (link(fresh, name) < 0) s = weft_fail_create(errno, "%s", name);
    }
    (void)unlink(fresh);
    if (s < 0) job_page_close(p);
    return s;
}

static weft_status remove_stale(const char *name) {
    struct stat st;
    if (lstat(name, &st) < 0) return errno == ENOENT ? WEFT_OK : weft_fail_errno(errno, "%s", name);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
        return weft_fail(WEFT_ERR_ACCESS, "%s is in the way, and not a file of this user", name);
    if (unlink(name) < 0 && errno != ENOENT) return weft_fail_errno(errno, "%s", name);
    return WEFT_OK;
}

weft_status job_page_create(const char *name, const uint64_t run[2], uint32_t ranks, job_page *p) {
    *p = (job_page){.head = NULL};
    if (!ranks || ranks > JOB_PAGE_RANKS_MOST)
        return weft_fail(WEFT_ERR_ARG, "a control page of %u ranks: 1 to %d expected", ranks,
                         JOB_PAGE_RANKS_MOST);
    weft_status s = open_page(name, p);
    if (s >= 0 && (p->ranks != ranks || memcmp(p->head->run, run, sizeof p->head->run) != 0)) {
        job_page_close(p);
        s = WEFT_ERR_FORMAT;
    }
    if (s < 0) {
        WEFT_TRY(remove_stale(name));
        WEFT_TRY(make(name, run, ranks, p));
    }
    p->head->agent = (uint32_t)getpid();
    return WEFT_OK;
}

void job_page_close(job_page *p) {
    if (p->head) munmap(p->head, p->bytes);
    *p = (job_page){.head = NULL};
}

void job_page_remove(const char *name, job_page *p) {
    if (p->head) (void)unlink(name);
    job_page_close(p);
}

/* ---- slots ---- */

uint64_t job_process_started(uint32_t pid) {
    char path[32], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char *at = strrchr(text, ')'); /* the name of the program may hold anything; the state is field 3 */
    if (!at || !at[1] || at[2] == 'Z' || at[2] == 'X') return 0;
    for (int field = 2; field < 22 && at; field++) at = strchr(at + 1, ' ');
    return at ? strtoull(at + 1, NULL, 10) : 0;
}

int job_slot_alive(const job_slot *s) {
    const uint32_t pid = atomic_load_explicit(&s->pid, memory_order_acquire);
    const uint64_t started = atomic_load_explicit(&s->started, memory_order_acquire);
    return pid && started && job_process_started(pid) == started;
}

weft_status job_slot_take(job_page *p, uint32_t i) {
    if (i >= p->ranks)
        return weft_fail(WEFT_ERR_ARG, "local rank %u, but the control page has room for %u", i, p->ranks);
    job_slot *s = p->slot + i;
    const uint32_t pid = (uint32_t)getpid();
    atomic_store_explicit(&s->pid, 0, memory_order_release); /* nobody while the words of two are mixed */
    atomic_store_explicit(&s->step, 0, memory_order_release);
    atomic_store_explicit(&s->phase, 0, memory_order_release);
    atomic_store_explicit(&s->step_ns, 0, memory_order_release);
    atomic_store_explicit(&s->saved, 0, memory_order_release);
    atomic_store_explicit(&s->save_ns, 0, memory_order_release);
    atomic_store_explicit(&s->started, job_process_started(pid), memory_order_release);
    atomic_store_explicit(&s->mono_ns, weft_now_ns(), memory_order_release);
    atomic_store_explicit(&s->pid, pid, memory_order_release);
    return WEFT_OK;
}

void job_slot_leave(job_page *p, uint32_t i) {
    uint32_t mine = (uint32_t)getpid();
    if (i < p->ranks)
        atomic_compare_exchange_strong_explicit(&p->slot[i].pid, &mine, 0, memory_order_release,
                                                memory_order_relaxed);
}

static uint64_t load(const _Atomic uint64_t *word) {
    return atomic_load_explicit(word, memory_order_acquire);
}

static void count_live(const job_slot *s, job_node *n) {
    const uint64_t step = load(&s->step), saved = load(&s->saved);
    const int first = !n->live++;
    if (first || step < n->min_step) {
        n->min_step = step;
        n->phase = atomic_load_explicit(&s->phase, memory_order_acquire);
    }
    if (atomic_load_explicit(&s->phase, memory_order_acquire) == WEFT_JOB_WAIT &&
        weft_now_ns() < load(&s->mono_ns) + JOB_WAIT_S * 1000000000ull)
        n->waits = 1;
    if (first || step > n->max_step) n->max_step = step;
    if (first || saved < n->saved) n->saved = saved;
    if (load(&s->step_ns) > n->step_ns) n->step_ns = load(&s->step_ns);
    if (load(&s->save_ns) > n->save_ns) n->save_ns = load(&s->save_ns);
}

void job_page_look(const job_page *p, job_node *n) {
    *n = (job_node){.live = 0};
    for (uint32_t i = 0; i < p->ranks; i++) {
        const job_slot *s = p->slot + i;
        if (!atomic_load_explicit(&s->pid, memory_order_acquire)) continue;
        if (job_slot_alive(s))
            count_live(s, n);
        else if (atomic_load_explicit(&s->phase, memory_order_acquire) != WEFT_JOB_END)
            n->dead++;
    }
}
