/* The supervisor's end of the heartbeats, for tests in shell: peer DIR TOKEN
 *
 * Writes DIR/address (HOST:PORT) when it listens, answers every heartbeat with what stands in DIR/order at that moment
 * ("STOP REMAINING_MS ORDERS EPOCH"; missing: 0 -1 0 0), and keeps the last heartbeat in DIR/beat as one line:
 * "live dead min max saved save_ns phase flags epoch". Ends by a signal. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/job/beat.h"

static int listen_on(char address[32]) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &n) < 0)
        return -1;
    snprintf(address, 32, "127.0.0.1:%d\n", ntohs(at.sin_port));
    return fd;
}

static job_answer order_of(const char *path, const uint64_t token[2]) {
    job_answer a = {.token = {token[0], token[1]}, .remaining_ms = -1};
    unsigned long long stop = 0;
    long long left = -1;
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%llu %lld %u %u", &stop, &left, &a.orders, &a.epoch) == 4) {
        a.stop = stop;
        a.remaining_ms = left;
    }
    if (f) fclose(f);
    return a;
}

int main(int argc, char **argv) {
    char address[32], text[256], path[3][512];
    static const char *const name[3] = {"address", "order", "beat"};
    uint64_t token[2];
    uint8_t bytes[256];
    job_beat b;
    if (argc != 3 || !job_token_read(argv[2], token)) return 64;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    for (int i = 0; i < 3; i++) snprintf(path[i], sizeof path[i], "%.400s/%s", argv[1], name[i]);
    const int fd = listen_on(address);
    if (fd < 0 || weft_file_write(path[0], address, strlen(address)) < 0) return 1;
    for (;;) {
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        const ssize_t n = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &size);
        if (n < 0 || !job_beat_unpack(bytes, (size_t)n, token, &b)) continue;
        const job_answer a = order_of(path[1], token);
        job_answer_pack(&a, bytes);
        (void)!sendto(fd, bytes, JOB_ANSWER_BYTES, 0, (struct sockaddr *)&from, size);
        snprintf(text, sizeof text, "%u %u %llu %llu %llu %llu %u %u %u\n", b.live_ranks, b.dead_ranks,
                 (unsigned long long)b.min_step, (unsigned long long)b.max_step, (unsigned long long)b.saved,
                 (unsigned long long)b.save_ns, b.phase, b.flags, b.epoch);
        if (weft_file_write(path[2], text, strlen(text)) < 0) return 1;
    }
}
