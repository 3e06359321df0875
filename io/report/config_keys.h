/* The keys of config.yaml as the trainer writes it, two levels of "key: value". */
#ifndef WEFT_IO_REPORT_CONFIG_KEYS_H
#define WEFT_IO_REPORT_CONFIG_KEYS_H

#include "io/report/compare.h"

/* Fills c->key: the keys whose values differ between the runs, but for run.name and run.dir. A run without config.yaml
 * has none. NOMEM. */
weft_status config_differences(weft_compare *c);
void config_keys_free(compare_key *key, size_t n);

/* Splits text into lines "section.key" and value; calls take for each. Lines of another form are left out. */
weft_status config_scan(const char *text, size_t n,
                        weft_status (*take)(void *arg, const char *key, size_t nkey, const char *value,
                                            size_t nvalue),
                        void *arg);

#endif
