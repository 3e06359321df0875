/* The launch section: defaults, errors that name site, key and line, names that would reach a shell refused, the texts that are
 * made of it, and the ssh driver's scripts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fault.h"
#include "base/mem.h"
#include "runtime/launch/launch_config.h"
#include "runtime/launch/launch_driver.h"
#include "runtime/launch/launch_script.h"
#include "runtime/launch/slurm_text.h"

static weft_status parse(const char *text, launch_config **c) {
    return launch_config_parse("run.yaml", text, strlen(text), NULL, 0, c);
}

static const char two_sites[] = "run: {name: llama, seed: 3}\n"
                                "train: {steps: 5}\n"
                                "launch:\n"
                                "  min_sites: 2\n"
                                "  hub: {site: south}\n"
                                "  sites:\n"
                                "    north: {nodes: 4, tasks_per_node: 2, spares: 1, time: \"1-00:00:00\", "
                                "dir: /scratch/u/run, set: [\"data.train=/x/*.h5\"]}\n"
                                "    south:\n"
                                "      driver: ssh\n"
                                "      host: login.south\n"
                                "      ssh: [-p, 2222]\n"
                                "      cells: 2\n"
                                "      nodes: 2\n"
                                "      dir: /lustre/u/run\n"
                                "      extra: [--exclusive]\n";

static void values(void **state) {
    static const char *const sets[] = {"launch.sites.north.nodes=6", "train.steps=9",
                                       "launch.start_window_s=5"};
    launch_config *c = NULL;
    (void)state;
    assert_int_equal(launch_config_parse("run.yaml", two_sites, sizeof two_sites - 1, sets, 3, &c), WEFT_OK);
    assert_int_equal(c->nsites, 2);
    assert_int_equal(c->home, 1);
    assert_int_equal(c->start_window_s, 5);
    assert_string_equal(c->run.name, "llama");
    assert_string_equal(c->site[0].name, "north");
    assert_int_equal(c->site[0].nodes, 6);
    assert_int_equal(c->site[1].driver, LAUNCH_SSH);
    assert_string_equal(c->site[1].ssh.item[1], "2222");
    assert_int_equal(c->nset, 1);
    assert_string_equal(c->set[0], "train.steps=9");
    assert_int_equal(c->nmembers, 3);
    assert_string_equal(c->member[2].name, "south-c2");
    assert_int_equal(strlen(c->id), 8);
    launch_config_free(c);
}

/* The same id whatever is added, another one for another home. */
static void identity(void **state) {
    static const char one[] = "launch: {sites: {a: {dir: /x}}}",
                      more[] = "launch: {sites: {a: {dir: /x}, b: {dir: /y}}}",
                      other[] = "launch: {sites: {a: {dir: /z}}}";
    launch_config *a, *b, *c;
    (void)state;
    assert_int_equal(parse(one, &a), WEFT_OK);
    assert_int_equal(parse(more, &b), WEFT_OK);
    assert_int_equal(parse(other, &c), WEFT_OK);
    assert_int_equal(a->home, -1);
    assert_string_equal(a->id, b->id);
    assert_string_not_equal(a->id, c->id);
    launch_config_free(a);
    launch_config_free(b);
    launch_config_free(c);
}

static void errors_name_the_place(void **state) {
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"run: {name: x}\n", "no sites"},
        {"launch:\n  sites:\n    a: {nodes: 2}\n", "launch.sites.a.dir: is needed"},
        {"launch:\n  sites:\n    a:\n      dir: /x\n      nodes: 0\n",
         "run.yaml:5:14: launch.sites.a.nodes: found '0'"},
        {"launch:\n  sites:\n    a:\n      dir: /x\n      node: 2\n", "did you mean 'launch.sites.a.nodes'"},
        {"launch:\n  sites:\n    a:\n      dir: relative\n", "run.yaml:4: launch.sites.a.dir"},
        {"launch:\n  sites:\n    a:\n      dir: /x\n      host: y\n",
         "run.yaml:5: launch.sites.a.host: is for driver: ssh"},
        {"launch:\n  sites:\n    a: {dir: /x, driver: ssh}\n", "launch.sites.a.host: is needed"},
        {"launch:\n  sites:\n    a: {dir: /x, time: soon}\n", "launch.sites.a.time: expected"},
        {"launch:\n  sites:\n    a: {dir: /x, time: 1}\n", "is not longer than lead_s"},
        {"launch:\n  sites:\n    a: {dir: /x, nodes: 2, spares: 2}\n", "launch.sites.a.spares"},
        {"launch:\n  sites:\n    a: {dir: /x, nodes: 2, cells: 3}\n", "launch.sites.a.cells"},
        {"launch:\n  sites:\n    a: {dir: /x}\n    b: {dir: /x}\n",
         "launch.sites.b.dir: is that of site 'a'"},
        {"launch:\n  sites:\n    hub: {dir: /x}\n", "'hub' is no name for a site"},
        {"launch:\n  sites:\n    \"a b\": {dir: /x}\n", "'a b' is no name for a site"},
        {"launch:\n  min_sites: 2\n  sites:\n    a: {dir: /x}\n", "run.yaml:2: launch.min_sites"},
        {"launch:\n  hub: {site: c}\n  sites:\n    a: {dir: /x}\n", "launch.hub.site: is none"},
        {"launch:\n  on_window: explode\n  sites:\n    a: {dir: /x}\n", "one of cancel, wait"},
        {"launch:\n  sites:\n    a: {dir: /x, extra: [\"--comment=z\"]}\n", "weft's own"},
        {"launch:\n  sites:\n    a: {dir: /x, extra: [\"--arr=0-3\"]}\n", "weft's own"},
        {"launch:\n  sites:\n    a: {dir: /x}\n    b: {dir: /x/}\n",
         "launch.sites.b.dir: is that of site 'a'"},
        {"launch:\n  sites:\n    a: {dir: /x, nodes: 2, cells: 2}\n    a-c1: {dir: /y}\n",
         "another site has such a name"},
        {"launch:\n  sites:\n    a: {dir: /x, nodes: 5000}\n", "from 1 to 4096"},
        {"launch:\n  sites:\n    a: {dir: /x, extra: [\"-N4\"]}\n", "long option"},
        {"launch:\n  sites:\n    a: {dir: /x, set: [\"launch.min_sites=3\"]}\n", "launch.sites.a.set"},
        {"launch:\n  surprise: 1\n  sites:\n    a: {dir: /x}\n", "unknown key 'launch.surprise'"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        launch_config *c = (launch_config *)1;
        const weft_status s = parse(cases[i].text, &c);
        if (s != WEFT_ERR_CONFIG || !strstr(weft_last_error(), cases[i].want) || c)
            fail_msg("%s\n-> %s \"%s\", expected \"%s\"", cases[i].text, weft_status_name(s),
                     weft_last_error(), cases[i].want);
    }
}

/* No key of a site lets a character through that a shell would act on. */
static void hostile_names(void **state) {
    static const char *const keys[] = {"host", "conf", "dir", "time", "account", "partition", "env", "weft"};
    static const char *const evil[] = {"/x$(touch canary)",
                                       "/x`touch canary`",
                                       "/x; touch canary",
                                       "/x|y",
                                       "/x y",
                                       "-oProxyCommand=touch",
                                       "/x\\ny",
                                       "/x'y",
                                       "/x\\\"y",
                                       "/x&y",
                                       "/x>y"};
    static const char *const lists[] = {"ssh", "extra"};
    char text[512];
    launch_config *c;
    (void)state;
    for (size_t e = 0; e < sizeof evil / sizeof *evil; e++) {
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            snprintf(text, sizeof text,
                     "launch:\n  sites:\n    a:\n      %s\n      driver: ssh\n      %s\n      %s: \"%s\"\n",
                     strcmp(keys[k], "dir") ? "dir: /d" : "nodes: 1",
                     strcmp(keys[k], "host") ? "host: h" : "spares: 0", keys[k], evil[e]);
            if (parse(text, &c) != WEFT_ERR_CONFIG) fail_msg("accepted: %s", text);
        }
        for (size_t k = 0; k < 2 && evil[e][0] == '/'; k++) {
            snprintf(text, sizeof text,
                     "launch:\n  sites:\n    a: {driver: ssh, host: h, dir: /d, %s: [\"--x=%s\"]}\n",
                     lists[k], evil[e]);
            if (parse(text, &c) != WEFT_ERR_CONFIG) fail_msg("accepted: %s", text);
        }
        snprintf(text, sizeof text, "run: {name: \"%s\"}\nlaunch: {sites: {a: {dir: /d}}}\n", evil[e]);
        if (parse(text, &c) != WEFT_ERR_CONFIG) fail_msg("accepted: %s", text);
    }
}

static void texts(void **state) {
    launch_config *c = NULL;
    char *text = NULL;
    (void)state;
    assert_int_equal(parse(two_sites, &c), WEFT_OK);
    assert_int_equal(launch_script(c, 0, 7, "module load openmpi", "/opt/weft", &text), WEFT_OK);
    assert_non_null(strstr(text, "#SBATCH --nodes=4 --ntasks-per-node=2 --cpus-per-task=1\n"));
    assert_non_null(strstr(text, ":north:7\n"));
    assert_non_null(strstr(text, "#SBATCH --signal=B:USR1@120 --requeue --no-kill\n"));
    assert_non_null(strstr(text, "\nmodule load openmpi\n"));
    assert_non_null(strstr(text, "\nexec /opt/weft supervise /scratch/u/run/site.yaml\n"));
    free(text);
    assert_int_equal(launch_site_yaml(c, 1, "weft", &text), WEFT_OK);
    assert_non_null(strstr(text, "place: here"));
    assert_non_null(strstr(text, "sites: [\"north\", \"south-c1\", \"south-c2\"]"));
    free(text);
    assert_int_equal(launch_site_yaml(c, 0, "weft", &text), WEFT_OK);
    assert_non_null(strstr(text, "place: away"));
    assert_non_null(strstr(text, "\"--set\", \"data.train=/x/*.h5\""));
    free(text);
    launch_config_free(c);
}

/* ---- the ssh driver's script, run by a shell with stand-ins for Slurm's commands ---- */

static char dir[64], bin[128];

static int run_script(const char *script) {
    char path[128], command[512];
    snprintf(path, sizeof path, "%s/script", dir);
    FILE *f = fopen(path, "w");
    fputs(script, f);
    fclose(f);
    snprintf(command, sizeof command, "cd %s && PATH=%s:$PATH sh -s <script >out 2>err", dir, bin);
    return system(command);
}

static char *slurp(const char *name) {
    char path[256];
    static char text[1 << 16];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    if (!f) return NULL;
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

static void stand_in(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", bin, name);
    FILE *f = fopen(path, "w");
    fprintf(f, "#!/bin/sh\n%s\n", text);
    fclose(f);
    assert_int_equal(system("true"), 0);
    snprintf(path, sizeof path, "chmod +x %s/%s", bin, name);
    assert_int_equal(system(path), 0);
}

static void ssh_scripts(void **state) {
    char template[] = "/tmp/weft-launch-XXXXXX", text[2048];
    launch_driver d;
    launch_config *c = NULL;
    launch_hub_files hub = {0};
    const char *body = NULL;
    size_t n = 0;
    int code = 0;
    (void)state;
    assert_non_null(mkdtemp(template));
    snprintf(dir, sizeof dir, "%s", template);
    snprintf(bin, sizeof bin, "%s/bin", dir);
    snprintf(text, sizeof text, "mkdir %s", bin);
    assert_int_equal(system(text), 0);
    /* a run file that would do harm if any shell looked at it */
    snprintf(text, sizeof text,
             "# $(touch canary) `touch canary`\nrun: {name: r}\nlaunch:\n  sites:\n    a: {dir: %s/a}\n    "
             "b: {driver: ssh, host: h, dir: %s/b, set: [\"data.train=$(touch canary)'\"]}\n",
             dir, dir);
    assert_int_equal(parse(text, &c), WEFT_OK);
    assert_int_equal(launch_driver_open(&d, c, 1, "weft", "echo hello"), WEFT_OK);
    launch_action a = {.kind = LAUNCH_DO_OP, .site = 1, .op = LAUNCH_OP_PREPARE};
    char *script = launch_ssh_script(&d, &a, 0, &hub);
    assert_int_equal(run_script(script), 0);
    free(script);
    assert_int_equal(launch_ssh_body(&d, slurp("out"), strlen(slurp("out")), &body, &n, &code), WEFT_OK);
    assert_int_equal(code, 0);
    assert_string_equal(slurp("b/run.yaml"), text);
    assert_non_null(strstr(slurp("b/site.yaml"), "data.train=$(touch canary)'"));
    /* submission: the script arrives as it is */
    stand_in("sbatch", "cat >batch; echo noise; echo 4711");
    a.op = LAUNCH_OP_SUBMIT;
    script = launch_ssh_script(&d, &a, 3, &hub);
    assert_int_equal(run_script(script), 0);
    free(script);
    char *wanted = NULL;
    uint64_t id = 0;
    assert_int_equal(launch_script(c, 1, 3, "echo hello", "weft", &wanted), WEFT_OK);
    assert_string_equal(slurp("batch"), wanted);
    free(wanted);
    assert_int_equal(launch_ssh_body(&d, slurp("out"), strlen(slurp("out")), &body, &n, &code), WEFT_OK);
    assert_int_equal(code, 0);
    char *out = strndup(body, n);
    assert_int_equal(slurm_parse_submitted(out, n, &id), WEFT_OK);
    assert_int_equal(id, 4711);
    free(out);
    /* a listing behind the noise of a login shell, with a file */
    stand_in("squeue", "echo '12|RUNNING|None|x|1:00|n1|x'; cat; exit 3");
    snprintf(text, sizeof text, "%s/b/status.json", dir);
    FILE *f = fopen(text, "w");
    fputs("{\"v\": 1}", f);
    fclose(f);
    a.op = LAUNCH_OP_LIST;
    script = launch_ssh_script(&d, &a, 0, &hub);
    assert_int_equal(run_script(script), 0);
    free(script);
    out = strdup(slurp("out"));
    assert_int_equal(launch_ssh_body(&d, out, strlen(out), &body, &n, &code), WEFT_OK);
    assert_int_equal(code, 3);
    char *file = launch_ssh_file(&d, out, "status.json");
    assert_string_equal(file, "{\"v\": 1}");
    free(file);
    assert_null(launch_ssh_file(&d, out, "hub.addr"));
    /* cut anywhere it is no answer, or the whole one */
    for (size_t cut = 0; cut < strlen(out); cut++) {
        char *part = strndup(out, cut);
        code = 255;
        const weft_status s = launch_ssh_body(&d, part, cut, &body, &n, &code);
        if (s == WEFT_OK) assert_int_equal(code, 3);
        free(part);
    }
    free(out);
    /* a directory that cannot be made */
    stand_in("mkdir", "echo 'no room' >&2; exit 1");
    a.op = LAUNCH_OP_PREPARE;
    script = launch_ssh_script(&d, &a, 0, &hub);
    assert_int_not_equal(run_script(script), 0);
    free(script);
    code = 1;
    assert_int_equal(launch_ssh_body(&d, slurp("out"), strlen(slurp("out")), &body, &n, &code), WEFT_OK);
    assert_int_equal(code, 1);
    assert_null(slurp("canary"));
    /* the control: had the check of names let it through, the canary would be there */
    snprintf(text, sizeof text, "%s/b$(touch canary)", dir);
    c->site[1].dir = text;
    a.op = LAUNCH_OP_LIST;
    script = launch_ssh_script(&d, &a, 0, &hub);
    (void)run_script(script);
    free(script);
    assert_non_null(slurp("canary"));
    launch_driver_close(&d);
    launch_config_free(c);
    snprintf(text, sizeof text, "rm -rf %s", dir);
    assert_int_equal(system(text), 0);
}

static void every_failing_allocation(void **state) {
    launch_config *c = NULL;
    (void)state;
    for (long n = 1; n < 400; n++) {
        weft_fault_arm(WEFT_FAULT_ALLOC, n);
        const weft_status s = parse(two_sites, &c);
        weft_fault_arm(WEFT_FAULT_ALLOC, 0);
        if (s == WEFT_OK) {
            launch_config_free(c);
            assert_true(n > 10);
            return;
        }
        assert_int_equal(s, WEFT_ERR_NOMEM);
        assert_null(c);
    }
    fail_msg("more allocations than expected");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),
        cmocka_unit_test(identity),
        cmocka_unit_test(errors_name_the_place),
        cmocka_unit_test(hostile_names),
        cmocka_unit_test(texts),
        cmocka_unit_test(ssh_scripts),
        cmocka_unit_test(every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
