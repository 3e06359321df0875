/* The calls that weft serves.
 *
 * Results: weft adds in a fixed tree over the ranks (weft/comm.h), so they are the same in every run and on all ranks;
 * MPI leaves the order open. Where an operand is not a number, minima and maxima may differ from MPI's in which operand
 * wins, as they do between two MPI libraries. */
#include <sched.h>
#include <stdio.h>

#include "comm/pmpi/shim.h"

#define PATIENCE 256 /* looks before a waiting rank lets others have the core */

/* --- types and operators --------------------------------------------------------------------------------------- */

/* weft's type, or WEFT_DTYPE_COUNT. u32 stands for 4 bytes without a sign: no type of the lane, but its sum and bit
 * operations are those of i32. */
static weft_dtype integer_of(size_t bytes, int has_sign) {
    if (bytes == 8) return has_sign ? WEFT_I64 : WEFT_U64;
    if (bytes == 4) return has_sign ? WEFT_I32 : WEFT_U32;
    return WEFT_DTYPE_COUNT;
}

static weft_dtype fortran_type(MPI_Datatype t) {
    if (t == MPI_DOUBLE_PRECISION || t == MPI_REAL8) return WEFT_F64;
    if (t == MPI_REAL || t == MPI_REAL4) { /* REAL may have been made 8 bytes by a compiler option */
        int bytes = 0;
        PMPI_Type_size(t, &bytes);
        return bytes == 4 ? WEFT_F32 : bytes == 8 ? WEFT_F64 : WEFT_DTYPE_COUNT;
    }
    if (t == MPI_INTEGER || t == MPI_INTEGER4 || t == MPI_INTEGER8) {
        int bytes = 0;
        PMPI_Type_size(t, &bytes);
        return integer_of((size_t)bytes, 1);
    }
    return WEFT_DTYPE_COUNT;
}

static weft_dtype type_of(MPI_Datatype t) {
    if (t == MPI_DOUBLE) return WEFT_F64;
    if (t == MPI_FLOAT) return WEFT_F32;
    if (t == MPI_INT || t == MPI_INT32_T) return WEFT_I32;
    if (t == MPI_LONG) return integer_of(sizeof(long), 1);
    if (t == MPI_LONG_LONG || t == MPI_INT64_T) return WEFT_I64;
    if (t == MPI_UNSIGNED_LONG) return integer_of(sizeof(long), 0);
    if (t == MPI_UNSIGNED_LONG_LONG || t == MPI_UINT64_T) return WEFT_U64;
    if (t == MPI_UNSIGNED || t == MPI_UINT32_T) return WEFT_U32;
    return fortran_type(t);
}

static weft_redop op_of(MPI_Op op) {
    if (op == MPI_SUM) return WEFT_SUM;
    if (op == MPI_MIN) return WEFT_MIN;
    if (op == MPI_MAX) return WEFT_MAX;
    if (op == MPI_BOR) return WEFT_BOR;
    if (op == MPI_BAND) return WEFT_BAND;
    if (op == MPI_LAND) return WEFT_LAND;
    return WEFT_REDOP_COUNT;
}

/* Does the lane have this reduction? What MPI calls an error stays MPI's. */
static int known(weft_dtype *t, weft_redop op) {
    const int logical = op == WEFT_BOR || op == WEFT_BAND || op == WEFT_LAND;
    if (*t == WEFT_DTYPE_COUNT || op == WEFT_REDOP_COUNT) return 0;
    if (logical && (*t == WEFT_F32 || *t == WEFT_F64)) return 0;
    if (*t == WEFT_U32) {
        if (op == WEFT_MIN || op == WEFT_MAX) return 0;
        *t = WEFT_I32;
    }
    return 1;
}

/* --- the calls ---------------------------------------------------------------------------------------------- */

/* weft's error as MPI's, to the communicator's error handler. */
static int fail(MPI_Comm comm) {
    int class, code;
    PMPI_Add_error_class(&class);
    PMPI_Add_error_code(class, &code);
    char text[MPI_MAX_ERROR_STRING];
    snprintf(text, sizeof text, "weft: %.200s", weft_last_error());
    PMPI_Add_error_string(code, text);
    PMPI_Comm_call_errhandler(comm, code);
    return code;
}

int shim_allreduce(const void *in, void *out, int n, MPI_Datatype type, MPI_Op mpi_op, MPI_Comm comm,
                   shim_call by) {
    weft_group *g = shim_group(comm);
    weft_dtype t = g && n > 0 ? type_of(type) : WEFT_DTYPE_COUNT;
    const weft_redop op = op_of(mpi_op);
    shim_count.calls[by]++;
    if (!known(&t, op) || (size_t)n > WEFT_LAT_BYTES / weft_dtype_size(t))
        return PMPI_Allreduce(in, out, n, type, mpi_op, comm);
    if (weft_allreduce(g, in == MPI_IN_PLACE ? out : in, out, (size_t)n, t, op) < 0) return fail(comm);
    shim_count.served[by]++;
    return MPI_SUCCESS;
}

int shim_barrier(MPI_Comm comm) {
    weft_group *g = shim_group(comm);
    int32_t here = 1;
    shim_count.calls[SHIM_BARRIER]++;
    if (!g) return PMPI_Barrier(comm);
    if (weft_allreduce(g, &here, &here, 1, WEFT_I32, WEFT_BAND) < 0) return fail(comm);
    shim_count.served[SHIM_BARRIER]++;
    return MPI_SUCCESS;
}

/* --- calls that wait for messages ------------------------------------------------------------------------------ */

int shim_busy(void) {
    return shim_group(MPI_COMM_WORLD) && weft_progress(NULL, 0) == WEFT_IN_PROGRESS;
}

/* Complete, all of them or any; what is wrong with a request counts: MPI will say it. */
static int settled(int n, const MPI_Request *r, int all) {
    for (int i = 0; i < n; i++) {
        int done = 0;
        if (PMPI_Request_get_status(r[i], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return 1;
        if (done != all) return done;
    }
    return all || n == 0;
}

void shim_settle(int n, const MPI_Request *r, int all) {
    shim_count.calls[SHIM_POLLED]++;
    if (!shim_busy()) return;
    shim_count.served[SHIM_POLLED]++;
    for (int looks = 1; !settled(n, r, all); looks++) {
        weft_progress(NULL, 0);
        if (looks >= PATIENCE) sched_yield();
    }
}

int shim_send(const void *buf, int n, MPI_Datatype t, int to, int tag, MPI_Comm comm) {
    MPI_Request r;
    if (!shim_busy()) return PMPI_Send(buf, n, t, to, tag, comm);
    const int e = PMPI_Isend(buf, n, t, to, tag, comm, &r);
    if (e != MPI_SUCCESS) return e;
    shim_settle(1, &r, 1);
    return PMPI_Wait(&r, MPI_STATUS_IGNORE);
}

int shim_recv(void *buf, int n, MPI_Datatype t, int source, int tag, MPI_Comm comm, MPI_Status *status) {
    MPI_Request r;
    if (!shim_busy()) return PMPI_Recv(buf, n, t, source, tag, comm, status);
    const int e = PMPI_Irecv(buf, n, t, source, tag, comm, &r);
    if (e != MPI_SUCCESS) return e;
    shim_settle(1, &r, 1);
    return PMPI_Wait(&r, status);
}
