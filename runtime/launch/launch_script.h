/* What a site's job consists of, as text: the batch script and site.yaml, which `weft supervise` reads. Pure, any thread. */
#ifndef WEFT_LAUNCH_SCRIPT_H
#define WEFT_LAUNCH_SCRIPT_H

#include "runtime/launch/launch_config.h"

/* The batch script of a generation. `profile`: the site's environment profile, shell lines, or NULL; `weft`: the command at
 * the site. Free *text with free(). NOMEM. */
weft_status launch_script(const launch_config *c, size_t site, uint32_t generation, const char *profile,
                          const char *weft, char **text);
/* site.yaml. Free *text with free(). NOMEM. */
weft_status launch_site_yaml(const launch_config *c, size_t site, const char *weft, char **text);

#endif
