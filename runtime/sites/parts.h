/* Who reduces which part of a fragment: shares from measured rates, chunk bounds from shares.
 *
 * With M members, an encoded fragment of V_u bytes up and V_d bytes down, and member i owning the share f_i, its egress
 * e_i carries V_u (1 - f_i) of contributions and f_i (M-1) V_d of results, its ingress g_i carries f_i (M-1) V_u and
 * V_d (1 - f_i). The solver minimises the longest of these times; both are affine in f_i, so the least time is found
 * by bisection (the water-filling of hivemind's load balancing, arXiv 2103.03239, with both directions). All pure; any
 * thread. */
#ifndef WEFT_SITES_PARTS_H
#define WEFT_SITES_PARTS_H

#include "runtime/sites/message.h"

typedef struct weft_parts_site {
    double egress,
        ingress; /* bit/s; <= 0: unknown, taken as the median of the known ones (all unknown: equal) */
    int leaf;    /* owns nothing */
} weft_parts_site;

/* share[i] >= 0, sum 1, for n sites (1..64). up, down: V_u, V_d in any common unit. If all are leaves: equal shares. */
void weft_parts_solve(int n, const weft_parts_site *site, double up, double down, double *share);
/* The longest transfer with these shares: seconds if up and down are bits. */
double weft_parts_time(int n, const weft_parts_site *site, double up, double down, const double *share);
/* Shares as integers with sum WEFT_PARTS_ONE: largest remainder, ties to the first. */
void weft_parts_fix(int n, const double *share, uint32_t *fixed);

/* Member m of `members` owns chunks [bound[m], bound[m+1]); others own none. By largest remainder of the shares
 * (indexed by member), ties to the lower member; if all shares of the members are 0: equally. Integers only: the same
 * everywhere. */
void weft_parts_cut(weft_site_set members, const uint32_t share[WEFT_SITE_MEMBERS], uint32_t chunks,
                    uint32_t bound[WEFT_SITE_MEMBERS + 1]);
/* The members whose part has chunks. */
weft_site_set weft_parts_owners(const uint32_t bound[WEFT_SITE_MEMBERS + 1]);
/* 1 if everyone sends to everyone and reduces alone: fewer bytes when M <= 1 + b_down / b_up. */
int weft_parts_gather(int members, uint32_t bits_up, uint32_t bits_down);
/* eta(M): .4, .6, .6, .8 for 1, 2, 4, >= 8 members, linear in log2 M (arXiv 2503.09799, at H = 30). */
float weft_parts_eta(int members);

#endif
