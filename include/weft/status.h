/* Status values: what every fallible weft function returns.
 *
 * 0 is success; positive values are success with a remark (an operation still in progress); negative values
 * are errors, grouped by what broke. The text of the last error of the calling thread, with the chain of
 * contexts that led to it, is weft_last_error(). The library never exits, prints or aborts. */
#ifndef WEFT_STATUS_H
#define WEFT_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define WEFT_API __attribute__((visibility("default")))
#else
#define WEFT_API
#endif

typedef enum weft_status {
    WEFT_OK = 0,
    /* success with a remark */
    WEFT_IN_PROGRESS = 1, /* posted, not yet complete */
    WEFT_DROPPED = 2,     /* deliberately not done (a full queue that may drop) */
    WEFT_NO_CONTRIB = 3,  /* nobody contributed (total weight 0) */

    /* the call: nothing was done */
    WEFT_ERR_ARG = -1,         /* an argument or descriptor is invalid */
    WEFT_ERR_STATE = -2,       /* not allowed in this state of the object */
    WEFT_ERR_UNSUPPORTED = -3, /* a valid request that this build or backend does not serve */
    WEFT_ERR_INTERNAL = -4,    /* a bug in weft */

    /* the input */
    WEFT_ERR_CONFIG = -10,    /* run file: unknown key, wrong type, value out of range */
    WEFT_ERR_NOTFOUND = -11,  /* a file or directory that must exist does not */
    WEFT_ERR_FORMAT = -12,    /* not the format it claims to be, or truncated */
    WEFT_ERR_CORRUPT = -13,   /* right format, but a digest or invariant does not hold */
    WEFT_ERR_VERSION = -14,   /* a newer major version than this weft reads */
    WEFT_ERR_SHAPE = -15,     /* tensors missing, unexpected, or of another shape */
    WEFT_ERR_VOCAB = -16,     /* token ids and vocabulary do not fit together */
    WEFT_ERR_NONFINITE = -17, /* NaN or infinity where a number is needed */
    WEFT_ERR_AUTH = -18,      /* signature or credentials */

    /* the machine */
    WEFT_ERR_NOMEM = -20,   /* memory or planned scratch exhausted */
    WEFT_ERR_IO = -21,      /* reading or writing failed */
    WEFT_ERR_SPACE = -22,   /* disk or quota full */
    WEFT_ERR_ACCESS = -23,  /* read-only or forbidden */
    WEFT_ERR_SERVICE = -24, /* a program or library that is needed is missing */

    /* the group of ranks: unusable afterwards */
    WEFT_ERR_ORDER = -30,   /* ranks disagree about the operation */
    WEFT_ERR_TIMEOUT = -31, /* a wait ran into its limit */
    WEFT_ERR_PEER = -32,    /* a peer died */
    WEFT_ERR_LINK = -33,    /* a carrier failed */

    /* the device */
    WEFT_ERR_DEVICE = -40, /* asynchronous device error; stays */
    WEFT_ERR_STALE = -41,  /* a prepared object (packed weight) is older than its source */

    /* the run */
    WEFT_ERR_DIVERGED = -50, /* the training makes no progress (NaN or spikes beyond the guard) */

    /* the sites of a run: the training state stays intact. HUB_STALE and LAYOUT need a person */
    WEFT_ERR_HUB_STALE =
        -60, /* the hub's log lacks what this site has seen committed: an old backup, or another run */
    WEFT_ERR_FENCED = -61,   /* this site was given up as dead: join again */
    WEFT_ERR_HUB_LOST = -62, /* no hub for longer than the site may go on alone */
    WEFT_ERR_LAYOUT = -63,   /* another model, fragments or parameters than the run's */
    WEFT_ERR_QUORUM = -64,   /* fewer sites than the run needs */
} weft_status;

/* The upper-case name of a status without its prefix, e.g. "ERR_FORMAT". Never NULL. Any thread. */
WEFT_API const char *weft_status_name(weft_status s);

/* Text of the calling thread's last error: "context: context: cause". Valid until the thread's next error; ""
 * if there was none. Any thread. */
WEFT_API const char *weft_last_error(void);

/* The process exit code for a status (docs/exit-codes.md). Any thread. */
WEFT_API int weft_exit_code(weft_status s);

#ifdef __cplusplus
}
#endif
#endif
