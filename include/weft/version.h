/* The version of the headers; weft_version() is that of the library. */
#ifndef WEFT_VERSION_H
#define WEFT_VERSION_H

#include "weft/status.h"

#define WEFT_VERSION       "0.1.0"
#define WEFT_VERSION_MAJOR 0
#define WEFT_VERSION_MINOR 1
#define WEFT_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0". Any thread. */
WEFT_API const char *weft_version(void);

#ifdef __cplusplus
}
#endif
#endif
