/* What the Fortran module (include/weft/weft.f90) needs of C: communicators as Fortran knows them, integers. The
 * functions are those of weft/comm.h otherwise. */
#include "weft/comm.h"

WEFT_API weft_status weft_init_fortran(MPI_Fint world, const weft_comm_opts *o, weft_ctx **c);
WEFT_API weft_status weft_group_create_fortran(weft_ctx *c, MPI_Fint comm, const char *name, weft_group **g);

weft_status weft_init_fortran(MPI_Fint world, const weft_comm_opts *o, weft_ctx **c) {
    return weft_init(MPI_Comm_f2c(world), o, c);
}

weft_status weft_group_create_fortran(weft_ctx *c, MPI_Fint comm, const char *name, weft_group **g) {
    return weft_group_create(c, MPI_Comm_f2c(comm), name, g);
}
