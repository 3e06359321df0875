/* The share solver and the cut of fragments into parts; see parts.h for the model. Invariants: shares are >= 0 and sum
 * to one; a cut covers every chunk exactly once; neither depends on the order of members beyond their numbers. */
#include "runtime/sites/parts.h"

#include <math.h>
#include <string.h>

/* The two directions of one member: time = (fixed + f * slope) / rate. */
typedef struct direction {
    double fixed, slope, rate;
} direction;

static void directions(int n, const weft_parts_site *s, double up, double down, direction d[2]) {
    d[0] = (direction){up, (n - 1) * down - up, s->egress};
    d[1] = (direction){down, (n - 1) * up - down, s->ingress};
}

static int usable(double rate) {
    return isfinite(rate) && rate > 0;
}

/* Unknown rates become the median of the known ones of that direction. */
static double stand_in(int n, const weft_parts_site *site, int ingress) {
    double known[WEFT_SITE_MEMBERS];
    int k = 0;
    for (int i = 0; i < n; i++) {
        double r = ingress ? site[i].ingress : site[i].egress;
        if (!usable(r)) continue;
        int at = k++;
        for (; at > 0 && known[at - 1] > r; at--) known[at] = known[at - 1];
        known[at] = r;
    }
    return k ? known[k / 2] : 1;
}

static void fill(int n, const weft_parts_site *site, weft_parts_site *out) {
    double e = stand_in(n, site, 0), g = stand_in(n, site, 1);
    for (int i = 0; i < n; i++) {
        out[i] = site[i];
        if (!usable(out[i].egress)) out[i].egress = e;
        if (!usable(out[i].ingress)) out[i].ingress = g;
    }
}

/* The largest share with which the member is done by time t, in [0, 1]; -1 if even no share is too much. */
static double bound_at(int n, const weft_parts_site *s, double up, double down, double t) {
    direction d[2];
    double f = s->leaf ? 0 : 1;
    directions(n, s, up, down, d);
    for (int k = 0; k < 2; k++)
        if (d[k].slope > 0) f = fmin(f, (t * d[k].rate - d[k].fixed) / d[k].slope);
    if (f < 0) return -1;
    for (int k = 0; k < 2; k++) /* owning helps: with the most it may own it is still too slow */
        if (d[k].slope <= 0 && t * d[k].rate - d[k].fixed < f * d[k].slope) return -1;
    return f;
}

static int enough(int n, const weft_parts_site *site, double up, double down, double t) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double f = bound_at(n, &site[i], up, down, t);
        if (f < 0) return 0;
        sum += f;
    }
    return sum >= 1;
}

double weft_parts_time(int n, const weft_parts_site *site, double up, double down, const double *share) {
    weft_parts_site known[WEFT_SITE_MEMBERS];
    double longest = 0;
    if (n < 2) return 0;
    fill(n, site, known);
    for (int i = 0; i < n; i++) {
        direction d[2];
        directions(n, &known[i], up, down, d);
        for (int k = 0; k < 2; k++) longest = fmax(longest, (d[k].fixed + share[i] * d[k].slope) / d[k].rate);
    }
    return longest;
}

void weft_parts_solve(int n, const weft_parts_site *site, double up, double down, double *share) {
    weft_parts_site known[WEFT_SITE_MEMBERS];
    int owners = 0;
    for (int i = 0; i < n; i++) owners += !site[i].leaf;
    for (int i = 0; i < n; i++) share[i] = !owners ? 1.0 / n : site[i].leaf ? 0 : 1.0 / owners;
    if (n < 2 || owners < 2 || !(up > 0) || !(down > 0)) return;
    fill(n, site, known);
    double lo = 0, hi = weft_parts_time(n, known, up, down, share);
    for (int i = 0; i < n; i++) { /* a time that surely suffices: everything through every link */
        hi = fmax(hi, n * fmax(up, down) / fmin(known[i].egress, known[i].ingress));
    }
    if (!enough(n, known, up, down, hi)) return; /* equal shares: no time suits the model */
    for (int k = 0; k < 60; k++) {
        double mid = (lo + hi) / 2;
        if (enough(n, known, up, down, mid))
            hi = mid;
        else
            lo = mid;
    }
    double sum = 0;
    for (int i = 0; i < n; i++) sum += share[i] = fmax(0, bound_at(n, &known[i], up, down, hi));
    for (int i = 0; i < n; i++) share[i] /= sum;
}

void weft_parts_fix(int n, const double *share, uint32_t *fixed) {
    double rest[WEFT_SITE_MEMBERS] = {0};
    uint32_t left = WEFT_PARTS_ONE;
    for (int i = 0; i < n; i++) {
        double want = fmin(fmax(share[i], 0), 1) * WEFT_PARTS_ONE;
        fixed[i] = (uint32_t)want;
        if (fixed[i] > left) fixed[i] = left;
        left -= fixed[i];
        rest[i] = share[i] > 0 ? want - fixed[i] : -1;
    }
    while (left > 0) {
        int best = 0;
        for (int i = 1; i < n; i++)
            if (rest[i] > rest[best]) best = i;
        fixed[best]++;
        rest[best] -= 1;
        left--;
    }
}

void weft_parts_cut(weft_site_set members, const uint32_t share[WEFT_SITE_MEMBERS], uint32_t chunks,
                    uint32_t bound[WEFT_SITE_MEMBERS + 1]) {
    uint64_t sum = 0, rest[WEFT_SITE_MEMBERS] = {0};
    uint32_t count[WEFT_SITE_MEMBERS] = {0}, left = chunks;
    memset(bound, 0, (WEFT_SITE_MEMBERS + 1) * sizeof *bound);
    if (!members) return;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(members, m)) sum += share[m];
    int equal = sum == 0;
    if (equal) sum = (uint64_t)weft_site_count(members);
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (weft_site_has(members, m)) {
            uint64_t part = (uint64_t)chunks * (equal ? 1 : share[m]); /* < 2^32 * 2^32 */
            count[m] = (uint32_t)(part / sum);
            rest[m] = part % sum;
            left -= count[m];
        }
    while (left >
           0) { /* fewer than there are members; a remainder of 0 gets nothing before all others have */
        uint32_t best = weft_site_first(members);
        for (uint32_t m = best + 1; m < WEFT_SITE_MEMBERS; m++)
            if (weft_site_has(members, m) && rest[m] > rest[best]) best = m;
        count[best]++;
        rest[best] = 0;
        left--;
    }
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++) bound[m + 1] = bound[m] + count[m];
}

weft_site_set weft_parts_owners(const uint32_t bound[WEFT_SITE_MEMBERS + 1]) {
    weft_site_set s = 0;
    for (uint32_t m = 0; m < WEFT_SITE_MEMBERS; m++)
        if (bound[m + 1] > bound[m]) s |= weft_site_bit(m);
    return s;
}

int weft_parts_gather(int members, uint32_t bits_up, uint32_t bits_down) {
    return (uint64_t)(members - 1) * bits_up <= bits_down;
}

float weft_parts_eta(int members) {
    if (members <= 1) return 0.4f;
    if (members == 2) return 0.6f;
    if (members >= 8) return 0.8f;
    return members <= 4 ? 0.6f : 0.6f + 0.2f * (float)(log2(members) - 2);
}
