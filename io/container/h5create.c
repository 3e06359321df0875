/* The only file that calls HDF5: creates a file with all its metadata and no data.
 *
 * Method: everything that HDF5 itself writes must stand in one piece at the front, because the data is
 * written past HDF5. So the metadata block is set large enough beforehand, small datasets (which HDF5 does
 * not align) are created first, widest elements first so that each is aligned to its element, and after
 * closing every byte between the datasets is read and must be zero: a stray piece of metadata shows, and the
 * file is made again with a doubled block. Times are not tracked: the same content gives the same bytes. The
 * library is not thread-safe: one lock around it. */
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/container/layout.h"

static pthread_mutex_t h5_lock = PTHREAD_MUTEX_INITIALIZER;

typedef struct h5_job {
    const char *path;
    int64_t block, alignment, meta_block;
    const weft_attr *attrs;
    size_t nattrs;
    weft_container_dataset *sets;
    const size_t *order; /* of creation */
    size_t nsets;
} h5_job;

static herr_t deepest(unsigned n, const H5E_error2_t *e, void *text) {
    (void)n;
    if (!((char *)text)[0] && e->desc) snprintf(text, 256, "%s", e->desc);
    return 0;
}

/* HDF5 keeps errno of the failing system call as it is; its own text is the fallback. */
static weft_status h5_failed(const char *what, const char *path) {
    int e = errno;
    char text[256] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, deepest, text);
    H5Eclear2(H5E_DEFAULT);
    if (e == ENOSPC || e == EDQUOT || e == EACCES || e == EROFS || e == ENOENT)
        return weft_fail_errno(e, "HDF5, %s %s", what, path);
    return weft_fail(WEFT_ERR_IO, "HDF5, %s %s: %s", what, path, text[0] ? text : "no reason given");
}

/* A small float: HDF5 has no name for these, but a description, which h5dump and h5py read. */
static hid_t small_float(size_t sign, size_t exponent_at, size_t exponent_bits, size_t bias) {
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    if (t < 0) return t;
    if (H5Tset_fields(t, sign, exponent_at, exponent_bits, 0, exponent_at) < 0 || H5Tset_size(t, 2) < 0 ||
        H5Tset_ebias(t, bias) < 0) {
        H5Tclose(t);
        return H5I_INVALID_HID;
    }
    return t;
}

static hid_t h5_type(weft_dtype t) {
    switch (t) {
    case WEFT_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case WEFT_BF16: return small_float(15, 7, 8, 127);
    case WEFT_F16: return small_float(15, 10, 5, 15);
    case WEFT_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case WEFT_I32: return H5Tcopy(H5T_STD_I32LE);
    case WEFT_I64: return H5Tcopy(H5T_STD_I64LE);
    case WEFT_U64: return H5Tcopy(H5T_STD_U64LE);
    case WEFT_U16: return H5Tcopy(H5T_STD_U16LE);
    case WEFT_U32: return H5Tcopy(H5T_STD_U32LE);
    case WEFT_U8: return H5Tcopy(H5T_STD_U8LE);
    default: return H5I_INVALID_HID;
    }
}

static int write_attr(hid_t file, const weft_attr *a) {
    hid_t type, space = H5Screate(H5S_SCALAR), attr = -1;
    const void *value;
    if (a->type == WEFT_ATTR_STRING) {
        size_t n = strlen(a->s);
        type = H5Tcopy(H5T_C_S1);
        if (type >= 0 && (H5Tset_size(type, n ? n : 1) < 0 || H5Tset_strpad(type, H5T_STR_NULLPAD) < 0 ||
                          H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
            H5Tclose(type);
            type = -1;
        }
        value = a->s;
    } else {
        type = H5Tcopy(a->type == WEFT_ATTR_I64 ? H5T_STD_I64LE : H5T_IEEE_F64LE);
        value = a->type == WEFT_ATTR_I64 ? (const void *)&a->i : (const void *)&a->f;
    }
    int ok = 0;
    if (type >= 0 && space >= 0) attr = H5Acreate2(file, a->name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attr >= 0) ok = H5Awrite(attr, type, value) >= 0;
    if (attr >= 0) H5Aclose(attr);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return ok;
}

/* Makes the groups of "/a/b/name" that are missing. */
static int make_groups(hid_t file, const char *name) {
    char part[WEFT_CONTAINER_NAME_MAX + 1];
    int ok = 1;
    hid_t gcpl = H5Pcreate(H5P_GROUP_CREATE);
    if (gcpl < 0) return 0;
    ok = H5Pset_obj_track_times(gcpl, 0) >= 0;
    for (const char *p = strchr(name + 1, '/'); ok && p; p = strchr(p + 1, '/')) {
        memcpy(part, name, (size_t)(p - name));
        part[p - name] = 0;
        htri_t there = H5Lexists(file, part, H5P_DEFAULT);
        if (there == 0) {
            hid_t g = H5Gcreate2(file, part, H5P_DEFAULT, gcpl, H5P_DEFAULT);
            ok = g >= 0;
            if (g >= 0) H5Gclose(g);
        } else
            ok = there > 0;
    }
    H5Pclose(gcpl);
    return ok;
}

static int create_dataset(hid_t file, hid_t dcpl, weft_container_dataset *d) {
    hsize_t shape[WEFT_MAX_DIMS];
    for (uint32_t i = 0; i < d->ndim; i++) shape[i] = (hsize_t)d->shape[i];
    if (!make_groups(file, d->name)) return 0;
    hid_t type = h5_type(d->dtype), space = H5Screate_simple((int)d->ndim, shape, NULL), set = -1;
    if (type >= 0 && space >= 0) set = H5Dcreate2(file, d->name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    haddr_t at = HADDR_UNDEF;
    if (set >= 0) {
        at = H5Dget_offset(set);
        H5Dclose(set);
    }
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    d->at = at == HADDR_UNDEF ? -1 : (int64_t)at;
    return d->at >= 0;
}

static weft_status create_once(const h5_job *j) {
    hid_t fcpl = H5Pcreate(H5P_FILE_CREATE), fapl = H5Pcreate(H5P_FILE_ACCESS),
          dcpl = H5Pcreate(H5P_DATASET_CREATE);
    hid_t file = H5I_INVALID_HID;
    const char *doing = "setting properties for";
    errno = 0;
    int ok = fcpl >= 0 && fapl >= 0 && dcpl >= 0 && H5Pset_userblock(fcpl, (hsize_t)j->block) >= 0 &&
             H5Pset_obj_track_times(fcpl, 0) >= 0 &&
             H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
             H5Pset_alignment(fapl, CONTAINER_PAGE, (hsize_t)j->alignment) >= 0 &&
             H5Pset_meta_block_size(fapl, (hsize_t)j->meta_block) >= 0 &&
             H5Pset_small_data_block_size(fapl, 0) >= 0 &&
             H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG) >= 0 && H5Pset_layout(dcpl, H5D_CONTIGUOUS) >= 0 &&
             H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY) >= 0 &&
             H5Pset_fill_time(dcpl, H5D_FILL_TIME_NEVER) >= 0 && H5Pset_obj_track_times(dcpl, 0) >= 0;
    if (ok) {
        doing = "creating";
        file = H5Fcreate(j->path, H5F_ACC_TRUNC, fcpl, fapl);
        ok = file >= 0;
    }
    for (size_t i = 0; ok && i < j->nattrs; i++) {
        doing = "writing an attribute of";
        ok = write_attr(file, &j->attrs[i]);
    }
    for (size_t i = 0; ok && i < j->nsets; i++) {
        doing = "creating a dataset of";
        ok = create_dataset(file, dcpl, &j->sets[j->order[i]]);
    }
    weft_status s = ok ? WEFT_OK : h5_failed(doing, j->path);
    errno = 0;
    if (file >= 0 && H5Fclose(file) < 0 && s == WEFT_OK) s = h5_failed("closing", j->path);
    if (dcpl >= 0) H5Pclose(dcpl);
    if (fapl >= 0) H5Pclose(fapl);
    if (fcpl >= 0) H5Pclose(fcpl);
    return s;
}

/* Is every byte of [lo, hi) zero? Gaps are shorter than an alignment, or a stray metadata block. */
static weft_status all_zero(int fd, const char *path, int64_t lo, int64_t hi, int *zero) {
    char buf[4096];
    *zero = 1;
    for (int64_t at = lo; *zero && at < hi; at += (int64_t)sizeof buf) {
        size_t n = hi - at < (int64_t)sizeof buf ? (size_t)(hi - at) : sizeof buf;
        WEFT_TRY(weft_pread_all(fd, buf, n, at, path));
        for (size_t i = 0; i < n; i++)
            if (buf[i]) *zero = 0;
    }
    return WEFT_OK;
}

/* Reads the layout back: *clean is 0 if metadata lies between or behind the datasets. */
static weft_status inspect(const h5_job *j, int64_t *meta_bytes, int64_t *file_bytes, int *clean) {
    int fd = open(j->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return weft_fail_errno(errno, "opening %s", j->path);
    struct stat st;
    weft_status s = WEFT_OK;
    if (fstat(fd, &st) < 0) s = weft_fail_errno(errno, "reading %s", j->path);
    int64_t end = 0;
    *clean = 1;
    for (size_t i = 0; s == WEFT_OK && *clean && i < j->nsets; i++) {
        const weft_container_dataset *d = &j->sets[j->order[i]];
        if (d->at % (int64_t)weft_dtype_size(d->dtype) || (i && d->at < end))
            *clean = 0;
        else if (i == 0)
            *meta_bytes = d->at - j->block;
        else
            s = all_zero(fd, j->path, end, d->at, clean);
        end = d->at + d->bytes;
    }
    if (s == WEFT_OK && *clean && (*meta_bytes < 1 || st.st_size < end)) *clean = 0;
    if (s == WEFT_OK && *clean) s = all_zero(fd, j->path, end, st.st_size, clean);
    *file_bytes = st.st_size;
    close(fd);
    return s;
}

/* Small ones first, by element size downwards, else in the caller's order; the last (/sys/xxh, bytes) stays
 * last. */
static size_t *creation_order(const weft_container_dataset *sets, size_t n) {
    size_t *order = weft_calloc(n, sizeof *order), k = 0;
    if (!order) return NULL;
    for (size_t width = 8; width; width /= 2)
        for (size_t i = 0; i + 1 < n; i++)
            if (sets[i].bytes < CONTAINER_PAGE && weft_dtype_size(sets[i].dtype) == width) order[k++] = i;
    for (size_t i = 0; i + 1 < n; i++)
        if (sets[i].bytes >= CONTAINER_PAGE) order[k++] = i;
    order[k] = n - 1;
    return order;
}

weft_status weft_container_start(void) {
    pthread_mutex_lock(&h5_lock);
    const int ok = H5open() >= 0;
    pthread_mutex_unlock(&h5_lock);
    return ok ? WEFT_OK : weft_fail(WEFT_ERR_IO, "HDF5 does not start");
}

weft_status container_h5_create(const char *path, int64_t block, int64_t alignment, const weft_attr *attrs,
                                size_t nattrs, weft_container_dataset *sets, size_t nsets,
                                int64_t *meta_bytes, int64_t *file_bytes) {
    size_t text = 0;
    for (size_t i = 0; i < nattrs; i++) text += attrs[i].type == WEFT_ATTR_STRING ? strlen(attrs[i].s) : 0;
    for (size_t i = 0; i < nsets; i++) text += strlen(sets[i].name);
    size_t *order = creation_order(sets, nsets);
    if (!order) return WEFT_ERR_NOMEM;
    h5_job j = {path, block, alignment, 0, attrs, nattrs, sets, order, nsets};
    j.meta_block = (int64_t)weft_align_up(65536 + 1024 * nsets + 256 * nattrs + text, 65536);
    if (j.meta_block % alignment)
        j.meta_block = (int64_t)weft_align_up((size_t)j.meta_block, (size_t)alignment);

    weft_status s = WEFT_OK;
    int clean = 0;
    pthread_mutex_lock(&h5_lock);
    H5E_auto2_t print;
    void *print_arg;
    H5Eget_auto2(H5E_DEFAULT, &print, &print_arg);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* a library does not print */
    for (; s == WEFT_OK && !clean && j.meta_block <= CONTAINER_MAX_META; j.meta_block *= 2) {
        s = weft_fault_hit(WEFT_FAULT_WRITE) ? weft_fail_errno(ENOSPC, "HDF5, creating %s", path)
                                             : create_once(&j);
        if (s == WEFT_OK) s = inspect(&j, meta_bytes, file_bytes, &clean);
    }
    H5Eset_auto2(H5E_DEFAULT, print, print_arg);
    pthread_mutex_unlock(&h5_lock);
    free(order);
    if (s == WEFT_OK && !clean)
        s = weft_fail(WEFT_ERR_INTERNAL, "%s: HDF5 does not keep its metadata in one piece, even in %lld MiB",
                      path, (long long)(CONTAINER_MAX_META >> 20));
    return s;
}
