/* The clock: does something discipline it, and how wrong may it be. Asked of the kernel, not of a network: a batch
 * node often reaches no time server but its own. How far the file servers' clocks are off, disk.c sees. */
#include <sys/timex.h>

#include "runtime/health/health.h"

#define MOST_S 0.1 /* Slurm's munge allows minutes; certificates seconds; traces of several nodes want this */

void health_clock(health_run *h) {
    struct timex t = {0};
    const int state = adjtimex(&t);
    if (state < 0 || state == TIME_ERROR || (t.status & STA_UNSYNC)) {
        health_find(
            h, WEFT_CHECK_CLOCK, WEFT_HEALTH_OK, "",
            "clock: the kernel knows of no time server (in a container or guest the host may keep it)");
        return;
    }
    const double unit = t.status & STA_NANO ? 1e-9 : 1e-6;
    const double off = fabs((double)t.offset * unit), most = (double)t.maxerror * 1e-6;
    /* maxerror counts the way to the server too; the offset is what is being corrected */
    health_number(
        health_find(h, WEFT_CHECK_CLOCK, off > MOST_S ? WEFT_HEALTH_DEGRADED : WEFT_HEALTH_OK, "",
                    "clock: disciplined, %.3f ms off (at most %.0f ms expected), certainly within %.0f ms",
                    off * 1e3, MOST_S * 1e3, most * 1e3),
        off * 1e3, MOST_S * 1e3, "ms", 0);
}
