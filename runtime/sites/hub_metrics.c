/* Metrics of the hub; see hub_metrics.h. Names of sites are [A-Za-z0-9._-]: nothing to escape. */
#include "runtime/sites/hub_metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double value_of(const json_t *j, const char *key) {
    return json_number_value(json_object_get(j, key));
}

static void family(FILE *f, const char *name, const char *type, const char *help) {
    fprintf(f, "# TYPE weft_%s %s\n# HELP weft_%s %s\n", name, type, name, help);
}

static void one(FILE *f, const char *name, const char *type, const char *help, double v) {
    family(f, name, type, help);
    fprintf(f, "weft_%s%s %.17g\n", name, strcmp(type, "counter") ? "" : "_total", v);
}

/* A family with a sample a site, of the key of its object. */
static void per_site(FILE *f, const json_t *sites, const char *name, const char *type, const char *help,
                     const char *key) {
    size_t i;
    const json_t *s;
    family(f, name, type, help);
    json_array_foreach(sites, i, s) {
        const json_t *v = json_object_get(s, key);
        if (json_is_number(v) || json_is_boolean(v))
            fprintf(f, "weft_%s%s{site=\"%s\"} %.17g\n", name, strcmp(type, "counter") ? "" : "_total",
                    json_string_value(json_object_get(s, "site")),
                    json_is_boolean(v) ? (double)json_is_true(v) : json_number_value(v));
    }
}

char *hub_metrics_text(const json_t *status) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f) return NULL;
    const json_t *sites = json_object_get(status, "sites"), *totals = json_object_get(status, "totals"),
                 *w = json_object_get(status, "connections");
    one(f, "hub_term", "gauge", "Term of the hub: how often it was started.", value_of(status, "term"));
    one(f, "hub_log_records", "counter", "Records in the log.", value_of(status, "seq"));
    one(f, "hub_sites_active", "gauge", "Sites that take part.",
        (double)json_array_size(json_object_get(status, "active")));
    one(f, "hub_commits", "counter", "Committed rounds.", value_of(totals, "commits"));
    one(f, "hub_aborts", "counter", "Attempts that were void.", value_of(totals, "aborts"));
    one(f, "hub_tokens", "counter", "Committed tokens.", value_of(totals, "tokens"));
    one(f, "hub_connections_refused", "counter", "Connections refused.", value_of(w, "refused"));
    per_site(f, sites, "site_connected", "gauge", "Has a connection to the hub.", "connected");
    per_site(f, sites, "site_tokens", "counter", "Committed tokens.", "tokens");
    per_site(f, sites, "site_commits", "counter", "Commits that it was in.", "commits");
    per_site(f, sites, "site_bytes", "counter", "Encoded bytes that it contributed.", "bytes");
    per_site(f, sites, "site_loss", "gauge", "Training loss at its last commit.", "loss");
    per_site(f, sites, "site_steps_per_second", "gauge", "Inner steps per second.", "steps_per_s");
    per_site(f, sites, "site_rtt_seconds", "gauge", "Round trip to the hub.", "rtt");
    per_site(f, sites, "site_share", "gauge", "Share of the parts that it reduces.", "share");
    per_site(f, sites, "site_utilisation", "gauge",
             "Part of its time in which it did not wait for other sites.", "utilisation");
    fputs("# EOF\n", f);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
