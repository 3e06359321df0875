/* Files: whole reads and writes, and what every failing system call on the way leaves behind. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/fault.h"
#include "tests/support/scratch.h"

static int entries(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2; /* . and .. */
}

static void assert_content(const char *path, const char *want) {
    char *data;
    size_t n;
    assert_ok(weft_file_read(path, 1 << 20, &data, &n));
    assert_int_equal(n, strlen(want));
    assert_string_equal(data, want);
    free(data);
}

static void what_is_written_is_read(void **state) {
    char *path = weft_path_join(*state, "f"), *data;
    size_t n;
    assert_ok(weft_file_write(path, "one", 3));
    assert_content(path, "one");
    assert_ok(weft_file_write(path, "", 0));
    assert_content(path, "");
    assert_ok(weft_file_write(path, "a\0b", 3));
    assert_ok(weft_file_read(path, 3, &data, &n));
    assert_memory_equal(data, "a\0b\0", 4);
    free(data);
    assert_error(weft_file_read(path, 2, &data, &n), WEFT_ERR_FORMAT, "has 3 bytes, more than the 2");
    assert_null(data);
    assert_int_equal(entries(*state), 1);
    free(path);
}

static void bad_paths_are_named(void **state) {
    char *data, *path = weft_path_join(*state, "no/f");
    size_t n;
    assert_error(weft_file_read(path, 9, &data, &n), WEFT_ERR_NOTFOUND, path);
    assert_error(weft_file_write(path, "x", 1), WEFT_ERR_ACCESS, path);
    assert_error(weft_file_read(*state, 9, &data, &n), WEFT_ERR_FORMAT, "not a regular file");
    free(path);
}

/* Each system call of a replacing write fails in its turn: the old content stays and nothing else is left. */
static void a_failed_write_leaves_the_old_file(void **state) {
    static const struct {
        weft_fault_site site;
        long n;
        weft_status s;
    } cases[] = {{WEFT_FAULT_ALLOC, 1, WEFT_ERR_NOMEM},
                 {WEFT_FAULT_WRITE, 1, WEFT_ERR_SPACE},
                 {WEFT_FAULT_SYNC, 1, WEFT_ERR_IO},
                 {WEFT_FAULT_RENAME, 1, WEFT_ERR_IO}};
    char *path = weft_path_join(*state, "f");
    assert_ok(weft_file_write(path, "old", 3));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        weft_fault_arm(cases[i].site, cases[i].n);
        assert_int_equal(weft_file_write(path, "new", 3), cases[i].s);
        weft_fault_arm(cases[i].site, 0);
        assert_content(path, "old");
        assert_int_equal(entries(*state), 1);
    }
    weft_fault_arm(WEFT_FAULT_SYNC, 2); /* of the directory: the new file is there, the caller is told */
    assert_int_equal(weft_file_write(path, "new", 3), WEFT_ERR_IO);
    assert_content(path, "new");
    assert_ok(weft_file_write(path, "new", 3)); /* negative control: unarmed, it works */
    free(path);
}

static void a_failed_read_gives_nothing(void **state) {
    char *path = weft_path_join(*state, "f"), *data = (char *)1;
    size_t n = 1;
    assert_ok(weft_file_write(path, "abc", 3));
    weft_fault_arm(WEFT_FAULT_READ, 1);
    assert_int_equal(weft_file_read(path, 9, &data, &n), WEFT_ERR_IO);
    assert_null(data);
    assert_int_equal(n, 0);
    weft_fault_arm(WEFT_FAULT_ALLOC, 1);
    assert_int_equal(weft_file_read(path, 9, &data, &n), WEFT_ERR_NOMEM);
    assert_null(data);
    free(path);
}

static void places_in_a_file(void **state) {
    char *path = weft_path_join(*state, "f"), buf[8] = {0};
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_ok(weft_pwrite_all(fd, "cd", 2, 2, path));
    assert_ok(weft_pwrite_all(fd, "ab", 2, 0, path));
    assert_ok(weft_pread_all(fd, buf, 4, 0, path));
    assert_string_equal(buf, "abcd");
    assert_error(weft_pread_all(fd, buf, 3, 2, path), WEFT_ERR_FORMAT, "ends at byte 4, 1 bytes too early");
    weft_fault_arm(WEFT_FAULT_WRITE, 1);
    assert_error(weft_pwrite_all(fd, "x", 1, 0, path), WEFT_ERR_SPACE, "writing");
    weft_fault_arm(WEFT_FAULT_WRITE, 1);
    assert_error(weft_write_all(fd, "x", 1, path), WEFT_ERR_SPACE, "writing");
    assert_ok(weft_file_sync(fd, path));
    close(fd);
    free(path);
}

static void directories(void **state) {
    char *deep = weft_path_join(*state, "a/b/c"), *file = weft_path_join(*state, "a/f"),
         *under = weft_path_join(file, "x");
    char *top = weft_path_join(*state, "a"), *link_path = weft_path_join(*state, "a/b/link");
    struct stat st;
    assert_ok(weft_mkdirs(deep));
    assert_ok(weft_mkdirs(deep));
    assert_ok(weft_file_write(file, "x", 1));
    assert_int_not_equal(weft_mkdirs(file), WEFT_OK);
    assert_int_not_equal(weft_mkdirs(under), WEFT_OK);
    assert_int_equal(symlink(*state, link_path), 0);
    assert_ok(weft_remove_tree(top)); /* does not follow the link */
    assert_int_equal(stat(top, &st), -1);
    assert_int_equal(stat(*state, &st), 0);
    assert_ok(weft_remove_tree(top)); /* missing is fine */
    char *j = weft_path_join("d/", "f");
    assert_string_equal(j, "d/f");
    free(j);
    j = weft_path_join("", "f");
    assert_string_equal(j, "f");
    free(j);
    free(deep), free(file), free(under), free(top), free(link_path);
}

#define in_scratch(t) cmocka_unit_test_setup_teardown(t, scratch_make, scratch_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        in_scratch(what_is_written_is_read),
        in_scratch(bad_paths_are_named),
        in_scratch(a_failed_write_leaves_the_old_file),
        in_scratch(a_failed_read_gives_nothing),
        in_scratch(places_in_a_file),
        in_scratch(directories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
