/* transformers itself loads what weft exported, and computes the same logits with it as with its own files.
 * Exit 77 (skipped) where the interpreter WEFT_PYTHON, or python3, has no transformers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

/* scripts/hf_check DIR --expect FILE; its exit status. */
static int check(const char *dir, const char *expected) {
    const char *python = getenv("WEFT_PYTHON") ? getenv("WEFT_PYTHON") : "python3";
    char script[] = WEFT_SOURCE_DIR "/scripts/hf_check";
    pid_t child = fork();
    if (child == 0) {
        execlp(python, python, script, dir, "--expect", expected, (char *)NULL);
        _exit(77);
    }
    int status = 0;
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int skipped;

static void transformers_computes_the_same_logits(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2", "llama", "llama3_tied", "mixtral"};
    char *root = scratch_make(), dir[4096];
    for (int i = 0; i < 4 && !skipped; i++) {
        model m;
        model_golden(&m, names[i], WEFT_F32);
        const char *expected = at(at(GOLDEN, names[i]), "expected.safetensors");
        snprintf(dir, sizeof dir, "%s/%s", root, names[i]);
        assert_ok(
            weft_hf_export(dir, &m.desc, m.t, m.n, NULL, i == 1 ? 20000 : 0)); /* one of them in shards */
        int rc = check(dir, expected);
        skipped = rc == 77;
        if (!skipped) assert_int_equal(rc, 0);
        if (!skipped && i == 0) { /* control: the comparison can fail */
            float *k = model_find(&m, "layers.00.attn.k.weight")->ptr;
            k[0] += 0.5f;
            assert_ok(weft_hf_export(dir, &m.desc, m.t, m.n, NULL, 0));
            assert_int_equal(check(dir, expected), 1);
        }
        model_destroy(&m);
    }
    scratch_remove(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(transformers_computes_the_same_logits)};
    int failed = cmocka_run_group_tests_name("io/exchange/hf_live", tests, NULL, NULL);
    return failed ? failed : skipped ? 77 : 0;
}
