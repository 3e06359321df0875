/* The same as Fortran programs call them. Open MPI's Fortran library calls PMPI_* in C directly, so the C functions of
 * this library would not be seen. The names of mpif.h and of the module mpi (in the manglings of common compilers) are
 * one function here; the module mpi_f08 comes in through ompi_*_f.
 *
 * Handles are integers. MPI_IN_PLACE and the ignored statuses are addresses of common blocks in the MPI library; they do
 * not exist in a program without Fortran, hence weak. */
#include <mpi.h>
#include <stdlib.h>

#include "comm/pmpi/shim.h"

#define WEAK_NAME(name) extern char name __attribute__((weak))
WEAK_NAME(mpi_fortran_in_place_);
WEAK_NAME(mpi_fortran_bottom_);
WEAK_NAME(mpi_fortran_status_ignore_);
WEAK_NAME(mpi_fortran_statuses_ignore_);

/* A subroutine under all its names: mpi_x_, mpi_x, mpi_x__, MPI_X, ompi_x_f. */
#define FORTRAN(x, X, ...)                                                                                   \
    SHOWN void mpi_##x##_(__VA_ARGS__);                                                                      \
    SHOWN void mpi_##x(__VA_ARGS__) __attribute__((alias("mpi_" #x "_")));                                   \
    SHOWN void mpi_##x##__(__VA_ARGS__) __attribute__((alias("mpi_" #x "_")));                               \
    SHOWN void MPI_##X(__VA_ARGS__) __attribute__((alias("mpi_" #x "_")));                                   \
    SHOWN void ompi_##x##_f(__VA_ARGS__) __attribute__((alias("mpi_" #x "_")));                              \
    void mpi_##x##_(__VA_ARGS__)

static void *address(void *p) {
    if (p == &mpi_fortran_in_place_) return MPI_IN_PLACE;
    return p == &mpi_fortran_bottom_ ? MPI_BOTTOM : p;
}

static void give(MPI_Fint *ierr, int e) {
    if (ierr) *ierr = (MPI_Fint)e;
}

/* --- begin and end --------------------------------------------------------------------------------------------- */

FORTRAN(init_thread, INIT_THREAD, MPI_Fint *required, MPI_Fint *provided, MPI_Fint *ierr) {
    int level = MPI_THREAD_SINGLE;
    give(ierr, MPI_Init_thread(NULL, NULL, (int)*required, &level));
    *provided = (MPI_Fint)level;
}

FORTRAN(init, INIT, MPI_Fint *ierr) {
    give(ierr, MPI_Init(NULL, NULL));
}

FORTRAN(finalize, FINALIZE, MPI_Fint *ierr) {
    give(ierr, MPI_Finalize());
}

/* --- reductions ------------------------------------------------------------------------------------------------ */

FORTRAN(allreduce, ALLREDUCE, void *in, void *out, MPI_Fint *n, MPI_Fint *t, MPI_Fint *op, MPI_Fint *comm,
        MPI_Fint *ierr) {
    give(ierr, shim_allreduce(address(in), address(out), (int)*n, PMPI_Type_f2c(*t), PMPI_Op_f2c(*op),
                              PMPI_Comm_f2c(*comm), SHIM_ALLREDUCE_FORTRAN));
}

FORTRAN(barrier, BARRIER, MPI_Fint *comm, MPI_Fint *ierr) {
    give(ierr, shim_barrier(PMPI_Comm_f2c(*comm)));
}

/* --- new communicators ----------------------------------------------------------------------------------------- */

static void give_comm(MPI_Fint *out, MPI_Comm made, MPI_Fint *ierr, int e) {
    give(ierr, e);
    if (e == MPI_SUCCESS) *out = PMPI_Comm_c2f(made);
}

FORTRAN(comm_dup, COMM_DUP, MPI_Fint *comm, MPI_Fint *out, MPI_Fint *ierr) {
    MPI_Comm made = MPI_COMM_NULL;
    const int e = MPI_Comm_dup(PMPI_Comm_f2c(*comm), &made);
    give_comm(out, made, ierr, e);
}

FORTRAN(comm_split, COMM_SPLIT, MPI_Fint *comm, MPI_Fint *color, MPI_Fint *key, MPI_Fint *out,
        MPI_Fint *ierr) {
    MPI_Comm made = MPI_COMM_NULL;
    const int e = MPI_Comm_split(PMPI_Comm_f2c(*comm), (int)*color, (int)*key, &made);
    give_comm(out, made, ierr, e);
}

FORTRAN(comm_split_type, COMM_SPLIT_TYPE, MPI_Fint *comm, MPI_Fint *type, MPI_Fint *key, MPI_Fint *info,
        MPI_Fint *out, MPI_Fint *ierr) {
    MPI_Comm made = MPI_COMM_NULL;
    const int e =
        MPI_Comm_split_type(PMPI_Comm_f2c(*comm), (int)*type, (int)*key, PMPI_Info_f2c(*info), &made);
    give_comm(out, made, ierr, e);
}

FORTRAN(comm_create, COMM_CREATE, MPI_Fint *comm, MPI_Fint *group, MPI_Fint *out, MPI_Fint *ierr) {
    MPI_Comm made = MPI_COMM_NULL;
    const int e = MPI_Comm_create(PMPI_Comm_f2c(*comm), PMPI_Group_f2c(*group), &made);
    give_comm(out, made, ierr, e);
}

/* Logical arrays are the Fortran library's business. The module mpi_f08 has no way in here: its cartesian communicators
 * stay with MPI. */
extern void pmpi_cart_create_(MPI_Fint *comm, MPI_Fint *nd, MPI_Fint *dims, MPI_Fint *periods,
                              MPI_Fint *reorder, MPI_Fint *out, MPI_Fint *ierr) __attribute__((weak));
extern void pmpi_cart_sub_(MPI_Fint *comm, MPI_Fint *remain, MPI_Fint *out, MPI_Fint *ierr)
    __attribute__((weak));

static void attach(const MPI_Fint *made, MPI_Fint e, MPI_Fint *ierr) {
    if (e == MPI_SUCCESS) shim_attach(PMPI_Comm_f2c(*made));
    give(ierr, e);
}

FORTRAN(cart_create, CART_CREATE, MPI_Fint *comm, MPI_Fint *nd, MPI_Fint *dims, MPI_Fint *periods,
        MPI_Fint *reorder, MPI_Fint *out, MPI_Fint *ierr) {
    MPI_Fint e = MPI_SUCCESS;
    pmpi_cart_create_(comm, nd, dims, periods, reorder, out, &e);
    attach(out, e, ierr);
}

FORTRAN(cart_sub, CART_SUB, MPI_Fint *comm, MPI_Fint *remain, MPI_Fint *out, MPI_Fint *ierr) {
    MPI_Fint e = MPI_SUCCESS;
    pmpi_cart_sub_(comm, remain, out, &e);
    attach(out, e, ierr);
}

/* --- calls that wait ------------------------------------------------------------------------------------------- */

static void give_status(MPI_Fint *out, const MPI_Status *s) {
    if ((char *)out != &mpi_fortran_status_ignore_) PMPI_Status_c2f(s, out);
}

FORTRAN(wait, WAIT, MPI_Fint *request, MPI_Fint *status, MPI_Fint *ierr) {
    MPI_Request r = PMPI_Request_f2c(*request);
    MPI_Status s;
    shim_settle(1, &r, 1);
    const int e = PMPI_Wait(&r, &s);
    give(ierr, e);
    if (e != MPI_SUCCESS) return;
    *request = PMPI_Request_c2f(r);
    give_status(status, &s);
}

#define FEW 32 /* requests that need no memory */

FORTRAN(waitall, WAITALL, MPI_Fint *count, MPI_Fint *request, MPI_Fint *status, MPI_Fint *ierr) {
    MPI_Request few[FEW] = {MPI_REQUEST_NULL}, *r = few;
    MPI_Status few_s[FEW], *s = few_s;
    const int n = (int)*count;
    if (n > FEW) {
        r = malloc((size_t)n * sizeof *r);
        s = malloc((size_t)n * sizeof *s);
    }
    int e = MPI_ERR_NO_MEM;
    if (r && s) {
        for (int i = 0; i < n; i++) r[i] = PMPI_Request_f2c(request[i]);
        shim_settle(n, r, 1);
        e = PMPI_Waitall(n, r, s);
        const int fill = (char *)status != &mpi_fortran_statuses_ignore_;
        for (int i = 0; i < n && (e == MPI_SUCCESS || e == MPI_ERR_IN_STATUS); i++) {
            request[i] = PMPI_Request_c2f(r[i]);
            if (fill) PMPI_Status_c2f(&s[i], status + (size_t)i * (sizeof(MPI_Status) / sizeof(MPI_Fint)));
        }
    }
    give(ierr, e);
    if (r != few) {
        free(r);
        free(s);
    }
}

FORTRAN(send, SEND, void *buf, MPI_Fint *n, MPI_Fint *t, MPI_Fint *to, MPI_Fint *tag, MPI_Fint *comm,
        MPI_Fint *ierr) {
    give(ierr,
         shim_send(address(buf), (int)*n, PMPI_Type_f2c(*t), (int)*to, (int)*tag, PMPI_Comm_f2c(*comm)));
}

FORTRAN(recv, RECV, void *buf, MPI_Fint *n, MPI_Fint *t, MPI_Fint *source, MPI_Fint *tag, MPI_Fint *comm,
        MPI_Fint *status, MPI_Fint *ierr) {
    MPI_Status s;
    const int e = shim_recv(address(buf), (int)*n, PMPI_Type_f2c(*t), (int)*source, (int)*tag,
                            PMPI_Comm_f2c(*comm), &s);
    give(ierr, e);
    if (e == MPI_SUCCESS) give_status(status, &s);
}
