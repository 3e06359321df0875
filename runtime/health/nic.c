/* Networks: every interface that is switched on, is hardware or carries the default route, must have a carrier;
 * every InfiniBand port whose cable is up must be active. Asked of the kernel by ioctl, which answers for the network
 * namespace that the process is in (/sys would for the one it was mounted in). */
#include <dirent.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/health/health.h"

static int ask(int fd, const char *name, unsigned long request, void *data, struct ifreq *q) {
    memset(q, 0, sizeof *q);
    snprintf(q->ifr_name, sizeof q->ifr_name, "%.*s", IFNAMSIZ - 1, name);
    if (data) q->ifr_data = data;
    return ioctl(fd, request, q);
}

static int is_hardware(int fd, const char *name) {
    struct ethtool_drvinfo d = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq q;
    return ask(fd, name, SIOCETHTOOL, &d, &q) == 0 && d.bus_info[0] && strcmp(d.bus_info, "N/A") != 0;
}

/* Mbit/s; 0: the driver does not say. */
static double speed_of(int fd, const char *name) {
    struct ethtool_cmd c = {.cmd = ETHTOOL_GSET};
    struct ifreq q;
    if (ask(fd, name, SIOCETHTOOL, &c, &q) != 0) return 0;
    const uint32_t s = (uint32_t)c.speed_hi << 16 | c.speed; /* the header's own function shifts an int */
    return s == (uint32_t)SPEED_UNKNOWN || s == 0xffff ? 0 : s;
}

static int carries_default_route(const health_run *h, const char *name) {
    char text[16384], iface[64], to[64];
    if (health_slurp(h, text, sizeof text, "/proc/thread-self/net/route") <= 0) return 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (sscanf(line, "%63s %63s", iface, to) == 2 && !strcmp(iface, name) && !strcmp(to, "00000000"))
            return 1;
    return 0;
}

static int is_wanted(const health_run *h, const char *name) {
    size_t nodes;
    for (size_t i = 0; i < h->o->nics; i++)
        if (!strcmp(h->o->nic[i], name)) return 1;
    if (!h->reference) return 0;
    health_reference_median(h->reference, WEFT_CHECK_NIC, name, &nodes);
    return nodes > 0;
}

/* 1: it was looked at. */
static int look_at(health_run *h, int fd, const char *name) {
    struct ifreq q;
    const int wanted = is_wanted(h, name);
    if (ask(fd, name, SIOCGIFFLAGS, NULL, &q) != 0) return 0;
    const int flags = q.ifr_flags;
    if (flags & IFF_LOOPBACK) return 0;
    if (!wanted && !((flags & IFF_UP) && (is_hardware(fd, name) || carries_default_route(h, name)))) return 0;
    if (!(flags & IFF_UP)) {
        health_find(h, WEFT_CHECK_NIC, WEFT_HEALTH_FAIL, name,
                    "interface %s is switched off: ip link set %s up", name, name);
        return 1;
    }
    if (!(flags & IFF_RUNNING)) {
        health_find(h, WEFT_CHECK_NIC, WEFT_HEALTH_FAIL, name,
                    "interface %s has no carrier: cable, or the other end's port", name);
        return 1;
    }
    const double speed = speed_of(fd, name);
    if (speed > 0)
        health_number(health_find(h, WEFT_CHECK_NIC, WEFT_HEALTH_OK, name, "interface %s is up, %.0f Mbit/s",
                                  name, speed),
                      speed, NAN, "Mbit/s", 1);
    else
        health_find(h, WEFT_CHECK_NIC, WEFT_HEALTH_OK, name, "interface %s is up, its driver names no speed",
                    name);
    return 1;
}

/* Text of a port's file without its end of line, behind "N: ". */
static int port_says(const health_run *h, const char *device, const char *port, const char *what, char *text,
                     size_t cap) {
    if (health_slurp(h, text, cap, "/sys/class/infiniband/%s/ports/%s/%s", device, port, what) <= 0) return 0;
    text[strcspn(text, "\n")] = 0;
    char *colon = strstr(text, ": ");
    if (colon) memmove(text, colon + 2, strlen(colon + 2) + 1);
    return 1;
}

static int look_at_port(health_run *h, const char *device, const char *port) {
    char name[64], state[64], cable[64], rate[64];
    snprintf(name, sizeof name, "%.40s/%.16s", device, port);
    if (!port_says(h, device, port, "state", state, sizeof state) ||
        !port_says(h, device, port, "phys_state", cable, sizeof cable))
        return 0;
    const int active = !strcmp(state, "ACTIVE"), linked = !strcmp(cable, "LinkUp");
    if (!linked && !is_wanted(h, name)) return 0; /* a port that nobody has plugged in */
    if (!active) {
        health_find(h, WEFT_CHECK_NIC, WEFT_HEALTH_FAIL, name,
                    "InfiniBand port %s is %s (cable: %s), expected ACTIVE: %s", name, state, cable,
                    linked ? "no subnet manager answers" : "cable, or the switch's port");
        return 1;
    }
    const double gbit = port_says(h, device, port, "rate", rate, sizeof rate) ? strtod(rate, NULL) : 0;
    health_number(health_find(h, WEFT_CHECK_NIC, WEFT_HEALTH_OK, name,
                              "InfiniBand port %s is active, %.0f Gbit/s", name, gbit),
                  gbit * 1000, NAN, "Mbit/s", 1);
    return 1;
}

static int names_of(const health_run *h, const char *below, char (*name)[64], int cap) {
    char path[HEALTH_PATH];
    int n = 0;
    snprintf(path, sizeof path, "%s%s", h->root, below);
    DIR *d = opendir(path);
    for (struct dirent *e; d && n < cap && (e = readdir(d));)
        if (e->d_name[0] != '.') snprintf(name[n++], sizeof *name, "%.63s", e->d_name);
    if (d) closedir(d);
    return n;
}

static int look_at_infiniband(health_run *h) {
    char device[32][64], port[8][64], below[128];
    int found = 0;
    const int devices = names_of(h, "/sys/class/infiniband", device, 32);
    for (int i = 0; i < devices; i++) {
        snprintf(below, sizeof below, "/sys/class/infiniband/%.63s/ports", device[i]);
        const int ports = names_of(h, below, port, 8);
        for (int k = 0; k < ports; k++) found += look_at_port(h, device[i], port[k]);
    }
    return found;
}

void health_nic(health_run *h) {
    struct if_nameindex *all = if_nameindex();
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int found = 0;
    for (size_t i = 0; all && fd >= 0 && all[i].if_index; i++) found += look_at(h, fd, all[i].if_name);
    for (size_t i = 0; i < h->o->nics; i++) {
        struct ifreq q;
        if (fd < 0 || ask(fd, h->o->nic[i], SIOCGIFFLAGS, NULL, &q) == 0) continue;
        found++;
        health_find(h, WEFT_CHECK_NIC, WEFT_HEALTH_FAIL, h->o->nic[i], "interface %.32s is not there",
                    h->o->nic[i]);
    }
    if (all) if_freenameindex(all);
    if (fd >= 0) close(fd);
    if (found + look_at_infiniband(h) == 0)
        health_find(h, WEFT_CHECK_NIC, WEFT_HEALTH_OK, "",
                    "no network interface besides the loopback is switched on");
}
