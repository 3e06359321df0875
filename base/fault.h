/* Fault injection: makes the n-th allocation, write or send of this process fail, so that tests drive every
 * failure path with the real code. Armed by WEFT_FAULT="write:3" (or "alloc:n", "read:n", "sync:n",
 * "rename:n", "send:n"), read once, or by weft_fault_arm(). Not armed, a check is one load of a global. */
#ifndef WEFT_BASE_FAULT_H
#define WEFT_BASE_FAULT_H

typedef enum weft_fault_site {
    WEFT_FAULT_ALLOC,
    WEFT_FAULT_READ,
    WEFT_FAULT_WRITE,
    WEFT_FAULT_SYNC,
    WEFT_FAULT_RENAME,
    WEFT_FAULT_SEND,
    WEFT_FAULT_SITES
} weft_fault_site;

/* Arms site: its n-th check from now fails (n >= 1); n = 0 disarms. Tests only; any thread. */
void weft_fault_arm(weft_fault_site site, long n);
/* 1 if the caller must fail here. Counts the call. Any thread. */
int weft_fault_hit(weft_fault_site site);

#endif
