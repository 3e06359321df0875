/* Namespaces and TUN devices; see net.h and, for the interfaces, network_namespaces(7), user_namespaces(7) and the
 * kernel's Documentation/networking/tuntap.rst.
 *
 * A descriptor of a TUN device goes on working from any namespace, so one process makes all of them one after another
 * and keeps the descriptors; nothing has to be handed over. Process 1 of a namespace takes everything with it. */
#include "tests/wan/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

#define SUBNET    0x0A4D0000u /* 10.77.0.0 */
#define NETMASK   0xFFFF0000u
#define TUN_QUEUE 4000 /* packets that the kernel keeps for us */
#define OWN_SPACE (CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS)
#define DEVICE    "/dev/net/tun"
#define NET_OF_ME "/proc/self/ns/net"

static weft_status write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return weft_fail_errno(errno, "open %s", path);
    weft_status s = weft_write_all(fd, text, strlen(text), path);
    close(fd);
    return s;
}

/* User 0 of a new user namespace is who we are. */
static weft_status unshare_as_user(void) {
    const unsigned uid = (unsigned)geteuid(), gid = (unsigned)getegid();
    char map[64];
    if (unshare(CLONE_NEWUSER | OWN_SPACE) != 0)
        return weft_fail(WEFT_ERR_SERVICE, "namespaces are not permitted here: %s", strerror(errno));
    WEFT_TRY(write_text("/proc/self/setgroups", "deny"));
    snprintf(map, sizeof map, "0 %u 1", uid);
    WEFT_TRY(write_text("/proc/self/uid_map", map));
    snprintf(map, sizeof map, "0 %u 1", gid);
    return write_text("/proc/self/gid_map", map);
}

static pid_t inside;

static void hand_on(int signal) {
    if (inside > 0) kill(inside, signal);
}

/* Outside: waits for process 1 and leaves as it did. */
static void wait_outside(void) {
    struct sigaction a = {.sa_handler = hand_on};
    int status = 0;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    while (waitpid(inside, &status, 0) < 0 && errno == EINTR) continue;
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

weft_status wan_isolate(void) {
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (fd < 0) return weft_fail(WEFT_ERR_SERVICE, "%s: %s", DEVICE, strerror(errno));
    close(fd);
    if (unshare(OWN_SPACE) != 0) WEFT_TRY(unshare_as_user());
    inside = fork();
    if (inside < 0) return weft_fail_errno(errno, "fork");
    if (inside > 0) wait_outside();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* Without a /proc of our own (a container may forbid it) numbers of processes in it are those of outside. */
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
        (void)!mount("proc", "/proc", "proc", 0, NULL);
    return WEFT_OK;
}

uint32_t wan_net_address(int site) {
    return SUBNET | (uint32_t)(site + 1) << 8 | 1;
}

int wan_net_site_of(const wan_net *n, uint32_t address) {
    const int site = (int)(address >> 8 & 0xFF) - 1;
    return (address & NETMASK) == SUBNET && site >= 0 && site < n->sites ? site : -1;
}

static weft_status request(int fd, unsigned long what, struct ifreq *r, const char *text) {
    if (ioctl(fd, what, r) == 0) return WEFT_OK;
    return weft_fail_errno(errno, "%s of %s", text, r->ifr_name);
}

static weft_status up(int fd, const char *name) {
    struct ifreq r = {.ifr_flags = IFF_UP | IFF_RUNNING};
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    return request(fd, SIOCSIFFLAGS, &r, "start");
}

static weft_status set_address(int fd, struct ifreq *r, unsigned long what, uint32_t address,
                               const char *text) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
    memcpy(&r->ifr_addr, &in, sizeof in);
    return request(fd, what, r, text);
}

/* Address, size, queue; the namespace is ours already. */
static weft_status configure(const wan_net *n, int site, const char *name) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return weft_fail_errno(errno, "socket");
    struct ifreq r = {0};
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    weft_status s;
    WEFT_GOTO(set_address(fd, &r, SIOCSIFADDR, wan_net_address(site), "address"), out);
    WEFT_GOTO(set_address(fd, &r, SIOCSIFNETMASK, NETMASK, "netmask"), out);
    r.ifr_mtu = n->mtu;
    WEFT_GOTO(request(fd, SIOCSIFMTU, &r, "mtu"), out);
    r.ifr_qlen = TUN_QUEUE;
    (void)ioctl(fd, SIOCSIFTXQLEN, &r); /* the system's root may; others live with 500 packets */
    WEFT_GOTO(up(fd, "lo"), out);
    WEFT_GOTO(up(fd, name), out);
out:
    close(fd);
    return s;
}

static weft_status open_site(wan_net *n, int site) {
    struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    if (unshare(CLONE_NEWNET) != 0)
        return weft_fail(WEFT_ERR_SERVICE, "a network namespace is not permitted here: %s", strerror(errno));
    n->ns[site] = open(NET_OF_ME, O_RDONLY | O_CLOEXEC);
    if (n->ns[site] < 0) return weft_fail_errno(errno, "open %s", NET_OF_ME);
    n->tun[site] = open(DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (n->tun[site] < 0) return weft_fail(WEFT_ERR_SERVICE, "%s: %s", DEVICE, strerror(errno));
    snprintf(r.ifr_name, sizeof r.ifr_name, "wan%d", site);
    if (ioctl(n->tun[site], TUNSETIFF, &r) != 0)
        return weft_fail(WEFT_ERR_SERVICE, "a TUN device is not permitted here: %s", strerror(errno));
    (void)write_text("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"); /* no chatter; IPv6 may be absent */
    return configure(n, site, r.ifr_name);
}

weft_status wan_net_open(wan_net *n, int sites, int mtu) {
    *n = (wan_net){.sites = sites, .mtu = mtu};
    for (int i = 0; i < WAN_SITES; i++) n->tun[i] = n->ns[i] = -1;
    for (int i = 0; i < sites; i++) {
        weft_status s = open_site(n, i);
        if (s == WEFT_OK) continue;
        wan_net_close(n);
        return weft_context(s, "site %d", i + 1);
    }
    return WEFT_OK;
}

void wan_net_close(wan_net *n) {
    for (int i = 0; i < n->sites; i++) {
        if (n->tun[i] >= 0) close(n->tun[i]);
        if (n->ns[i] >= 0) close(n->ns[i]);
        n->tun[i] = n->ns[i] = -1;
    }
}

weft_status wan_net_enter(const wan_net *n, int site) {
    if (setns(n->ns[site], CLONE_NEWNET) != 0)
        return weft_fail_errno(errno, "enter the network of site %d", site + 1);
    return WEFT_OK;
}

int wan_net_socket(const wan_net *n, int site, int type) {
    int back = open(NET_OF_ME, O_RDONLY | O_CLOEXEC), fd = -1;
    if (back < 0) return -1;
    if (setns(n->ns[site], CLONE_NEWNET) == 0) fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (setns(back, CLONE_NEWNET) != 0) abort(); /* nowhere to go on from */
    close(back);
    return fd;
}

weft_status wan_net_sysctl(const wan_net *n, int site, const char *path, const char *text) {
    int back = open(NET_OF_ME, O_RDONLY | O_CLOEXEC);
    if (back < 0) return weft_fail_errno(errno, "open %s", NET_OF_ME);
    weft_status s = wan_net_enter(n, site);
    if (s == WEFT_OK) s = write_text(path, text);
    if (setns(back, CLONE_NEWNET) != 0) abort();
    close(back);
    return s;
}
