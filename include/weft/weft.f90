! The module weft: weft/comm.h for Fortran. Compile this file with the program, by the program's compiler.
!
! The rules are those of weft/comm.h. What differs:
!   Communicators are integers (mpif.h, module mpi) or type(MPI_Comm) (module mpi_f08).
!   ierr is optional and comes last. Without it an error ends the program with weft's text on stderr.
!   Types of buffers follow from their kind: real(4), real(8), integer(4), integer(8), scalars or arrays of any rank.
!   The forms with n and a type of weft take any contiguous buffer.
!   Tensors are counted from 1. Faces are array sections, in Fortran's order of dimensions.
!   A buffer that weft uses after a call has returned (weft_reduce_post, faces, tensors) needs the target attribute, and
!   asynchronous where it is touched while weft may be at work, as for MPI's non-blocking calls.
module weft
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: error_unit
  use mpi_f08, only: MPI_Comm
  implicit none
  private

  type, bind(C), public :: weft_ctx
    type(c_ptr) :: p = c_null_ptr
  end type
  type, bind(C), public :: weft_group
    type(c_ptr) :: p = c_null_ptr
  end type
  type, bind(C), public :: weft_bulk
    type(c_ptr) :: p = c_null_ptr
  end type
  type, bind(C), public :: weft_req
    type(c_ptr) :: p = c_null_ptr
  end type
  type, bind(C), public :: weft_halo
    type(c_ptr) :: p = c_null_ptr
  end type

  type, bind(C), public :: weft_dtype
    integer(c_int) :: v
  end type
  type, bind(C), public :: weft_redop
    integer(c_int) :: v
  end type
  type(weft_dtype), parameter, public :: WEFT_F32 = weft_dtype(0), WEFT_BF16 = weft_dtype(1), &
    WEFT_F16 = weft_dtype(2), WEFT_F64 = weft_dtype(3), WEFT_I32 = weft_dtype(4), WEFT_I64 = weft_dtype(5), WEFT_U64 = weft_dtype(6)
  type(weft_redop), parameter, public :: WEFT_SUM = weft_redop(0), WEFT_MIN = weft_redop(1), WEFT_MAX = weft_redop(2), &
    WEFT_BOR = weft_redop(3), WEFT_BAND = weft_redop(4), WEFT_LAND = weft_redop(5)

  integer(c_int), parameter, public :: WEFT_OK = 0, WEFT_IN_PROGRESS = 1
  integer(c_int), parameter, public :: WEFT_BULK_ALLREDUCE = 0, WEFT_BULK_BCAST = 1, WEFT_BULK_REDUCE_SCATTER = 2, &
    WEFT_BULK_ALLGATHER = 3, WEFT_BULK_ALLTOALLV = 4
  integer, parameter, public :: WEFT_ALL = -1, WEFT_LAT_BYTES = 4096
  integer(c_int), parameter, public :: WEFT_FLAG_STOP = 1, WEFT_FLAG_CHECKPOINT = 2, WEFT_FLAG_RECONFIGURE = 4, &
    WEFT_FLAG_JOIN = 8, WEFT_FLAG_LINK = 16

  type, bind(C), public :: weft_face
    type(c_ptr) :: base = c_null_ptr
    type(weft_dtype) :: t = weft_dtype(3)
    integer(c_int) :: nd = 0
    integer(c_size_t) :: n(4) = 1
    integer(c_ptrdiff_t) :: stride(4) = 0
    integer(c_int) :: peer = 0, label = 0
  end type

  type, bind(C), public :: weft_tensor
    type(c_ptr) :: ptr = c_null_ptr
    integer(c_size_t) :: n = 0
    type(weft_dtype) :: t = weft_dtype(0)
    integer(c_int) :: prio = 0
    type(c_ptr) :: name = c_null_ptr
  end type

  type, bind(C), public :: weft_lane_stats
    integer(c_int64_t) :: count = 0, bytes = 0
    real(c_double) :: p50_us = 0, p99_us = 0, max_us = 0
  end type
  type, bind(C), public :: weft_stats_buf
    integer(c_int32_t) :: size = 0
    type(weft_lane_stats) :: lat, lat_loaded, halo, bulk, ctrl
    integer(c_int64_t) :: records = 0, entries = 0, quanta = 0
    real(c_double) :: longest_quantum_us = 0
    integer(c_int64_t) :: pulses = 0
  end type

  type, bind(C) :: comm_opts
    integer(c_int32_t) :: size
    integer(c_int64_t) :: timeout_ms, stall_ms
    integer(c_size_t) :: chunk
  end type
  type, bind(C) :: bulk_opts
    integer(c_int32_t) :: size
    integer(c_size_t) :: bucket
    integer(c_int) :: root, urgent
    type(weft_redop) :: op
  end type

  public :: weft_init, weft_finalize, weft_group_create, weft_group_rank, weft_group_size, weft_commit
  public :: weft_reduce_post, weft_reduce_flush, weft_test, weft_wait
  public :: weft_allreduce, weft_reduce_scatter, weft_allgather, weft_bcast, weft_barrier, weft_mem_alloc
  public :: weft_face_of, weft_halo_create, weft_halo_start, weft_halo_wait
  public :: weft_tensor_of, weft_bulk_create, weft_bulk_start, weft_bulk_ready, weft_bulk_wait
  public :: weft_progress, weft_quiet, weft_raise, weft_step, weft_stats, weft_last_error

  interface weft_init
    procedure init_integer, init_f08
  end interface
  interface weft_group_create
    procedure group_integer, group_f08
  end interface
  ! call weft_allreduce(group, x, op): in place; (group, in, out, n, type, op): any buffer
  interface weft_allreduce
    procedure allreduce_r4, allreduce_r8, allreduce_i4, allreduce_i8, allreduce_any
  end interface
  ! call weft_reduce_post(group, x, op, request): x holds the result after the wait
  interface weft_reduce_post
    procedure post_r4, post_r8, post_i4, post_i8
  end interface
  ! weft_face_of(section, peer, label): a strip of an array with the target attribute, not copied
  interface weft_face_of
    procedure face_r4_1, face_r4_2, face_r4_3, face_r8_1, face_r8_2, face_r8_3
  end interface
  ! weft_tensor_of(x [, prio]): a contiguous array with the target attribute
  interface weft_tensor_of
    procedure tensor_r4, tensor_r8
  end interface

  interface
    function c_init(world, o, c) bind(C, name="weft_init_fortran") result(s)
      import
      integer(c_int), value :: world
      type(comm_opts), intent(in) :: o
      type(weft_ctx), intent(out) :: c
      integer(c_int) :: s
    end function
    function c_group_create(c, comm, name, g) bind(C, name="weft_group_create_fortran") result(s)
      import
      type(weft_ctx), value :: c
      integer(c_int), value :: comm
      character(kind=c_char), intent(in) :: name(*)
      type(weft_group), intent(out) :: g
      integer(c_int) :: s
    end function
    function c_finalize(c, timeout_ms) bind(C, name="weft_finalize") result(s)
      import
      type(weft_ctx), intent(inout) :: c
      integer(c_int64_t), value :: timeout_ms
      integer(c_int) :: s
    end function
    function c_commit(c) bind(C, name="weft_commit") result(s)
      import
      type(weft_ctx), value :: c
      integer(c_int) :: s
    end function
    pure function c_rank(g) bind(C, name="weft_group_rank") result(r)
      import
      type(weft_group), value :: g
      integer(c_int) :: r
    end function
    pure function c_size(g) bind(C, name="weft_group_size") result(r)
      import
      type(weft_group), value :: g
      integer(c_int) :: r
    end function
    function c_last_error() bind(C, name="weft_last_error") result(p)
      import
      type(c_ptr) :: p
    end function
    function c_strlen(p) bind(C, name="strlen") result(n)
      import
      type(c_ptr), value :: p
      integer(c_size_t) :: n
    end function
    function c_post(g, in, out, n, t, op, r) bind(C, name="weft_reduce_post") result(s)
      import
      type(weft_group), value :: g
      type(c_ptr), value :: in, out
      integer(c_size_t), value :: n
      type(weft_dtype), value :: t
      type(weft_redop), value :: op
      type(weft_req), intent(out) :: r
      integer(c_int) :: s
    end function
    function c_flush(g) bind(C, name="weft_reduce_flush") result(s)
      import
      type(weft_group), value :: g
      integer(c_int) :: s
    end function
    function c_test(r) bind(C, name="weft_test") result(s)
      import
      type(weft_req), intent(inout) :: r
      integer(c_int) :: s
    end function
    function c_wait(r, timeout_ms) bind(C, name="weft_wait") result(s)
      import
      type(weft_req), intent(inout) :: r
      integer(c_int64_t), value :: timeout_ms
      integer(c_int) :: s
    end function
    function c_allreduce(g, in, out, n, t, op) bind(C, name="weft_allreduce") result(s)
      import
      type(weft_group), value :: g
      type(c_ptr), value :: in, out
      integer(c_size_t), value :: n
      type(weft_dtype), value :: t
      type(weft_redop), value :: op
      integer(c_int) :: s
    end function
    function c_reduce_scatter(g, in, out, n, t, op) bind(C, name="weft_reduce_scatter") result(s)
      import
      type(weft_group), value :: g
      type(c_ptr), value :: in, out
      integer(c_size_t), value :: n
      type(weft_dtype), value :: t
      type(weft_redop), value :: op
      integer(c_int) :: s
    end function
    function c_allgather(g, in, out, n, t) bind(C, name="weft_allgather") result(s)
      import
      type(weft_group), value :: g
      type(c_ptr), value :: in, out
      integer(c_size_t), value :: n
      type(weft_dtype), value :: t
      integer(c_int) :: s
    end function
    function c_bcast(g, buf, n, t, root) bind(C, name="weft_bcast") result(s)
      import
      type(weft_group), value :: g
      type(c_ptr), value :: buf
      integer(c_size_t), value :: n
      type(weft_dtype), value :: t
      integer(c_int), value :: root
      integer(c_int) :: s
    end function
    function c_barrier(g) bind(C, name="weft_barrier") result(s)
      import
      type(weft_group), value :: g
      integer(c_int) :: s
    end function
    ! c_null_ptr: weft_last_error says why
    function weft_mem_alloc(g, bytes) bind(C, name="weft_mem_alloc") result(p)
      import
      type(weft_group), value :: g
      integer(c_size_t), value :: bytes
      type(c_ptr) :: p
    end function
    function c_halo_create(g, ns, send, nr, recv, h) bind(C, name="weft_halo_create") result(s)
      import
      type(weft_group), value :: g
      integer(c_int), value :: ns, nr
      type(weft_face), intent(in) :: send(*), recv(*)
      type(weft_halo), intent(out) :: h
      integer(c_int) :: s
    end function
    function c_halo_start(h) bind(C, name="weft_halo_start") result(s)
      import
      type(weft_halo), value :: h
      integer(c_int) :: s
    end function
    function c_halo_wait(h, timeout_ms) bind(C, name="weft_halo_wait") result(s)
      import
      type(weft_halo), value :: h
      integer(c_int64_t), value :: timeout_ms
      integer(c_int) :: s
    end function
    function c_bulk_create(g, kind, nt, t, o, b) bind(C, name="weft_bulk_create") result(s)
      import
      type(weft_group), value :: g
      integer(c_int), value :: kind, nt
      type(weft_tensor), intent(in) :: t(*)
      type(bulk_opts), intent(in) :: o
      type(weft_bulk), intent(out) :: b
      integer(c_int) :: s
    end function
    function c_bulk_start(b, weight) bind(C, name="weft_bulk_start") result(s)
      import
      type(weft_bulk), value :: b
      real(c_double), value :: weight
      integer(c_int) :: s
    end function
    function c_bulk_ready(b, i) bind(C, name="weft_bulk_ready") result(s)
      import
      type(weft_bulk), value :: b
      integer(c_int), value :: i
      integer(c_int) :: s
    end function
    function c_bulk_wait(b, i, timeout_ms, total) bind(C, name="weft_bulk_wait") result(s)
      import
      type(weft_bulk), value :: b
      integer(c_int), value :: i
      integer(c_int64_t), value :: timeout_ms
      real(c_double), intent(out) :: total
      integer(c_int) :: s
    end function
    function c_progress(c, usec) bind(C, name="weft_progress") result(s)
      import
      type(weft_ctx), value :: c
      integer(c_int64_t), value :: usec
      integer(c_int) :: s
    end function
    function c_quiet(c, on) bind(C, name="weft_quiet") result(s)
      import
      type(weft_ctx), value :: c
      integer(c_int), value :: on
      integer(c_int) :: s
    end function
    function c_raise(c, flags) bind(C, name="weft_raise") result(s)
      import
      type(weft_ctx), value :: c
      integer(c_int), value :: flags
      integer(c_int) :: s
    end function
    function c_step(c, agreed) bind(C, name="weft_step") result(s)
      import
      type(weft_ctx), value :: c
      integer(c_int), intent(out) :: agreed
      integer(c_int) :: s
    end function
    function c_stats(c, b, reset) bind(C, name="weft_stats") result(s)
      import
      type(weft_ctx), value :: c
      type(weft_stats_buf), intent(inout) :: b
      integer(c_int), value :: reset
      integer(c_int) :: s
    end function
  end interface

contains

  ! --- errors ----------------------------------------------------------------------------------------------------

  function weft_last_error() result(text)
    character(:), allocatable :: text
    character(kind=c_char), pointer :: c(:)
    type(c_ptr) :: p
    integer :: i, n
    p = c_last_error()
    n = int(c_strlen(p))
    call c_f_pointer(p, c, [n])
    allocate (character(n) :: text)
    do i = 1, n
      text(i:i) = c(i)
    end do
  end function

  subroutine give(s, ierr)
    integer(c_int), intent(in) :: s
    integer, optional, intent(out) :: ierr
    if (present(ierr)) then
      ierr = s
    else if (s < 0) then
      write (error_unit, '(2a)') 'weft: ', weft_last_error()
      error stop 1
    end if
  end subroutine

  ! --- contexts and groups ---------------------------------------------------------------------------------------

  subroutine init_integer(comm, ctx, ierr, timeout_ms, stall_ms, chunk)
    integer, intent(in) :: comm
    type(weft_ctx), intent(out) :: ctx
    integer, optional, intent(out) :: ierr
    integer(c_int64_t), optional, intent(in) :: timeout_ms, stall_ms, chunk
    type(comm_opts) :: o
    o = comm_opts(0, 0, 0, 0)
    o%size = int(c_sizeof(o), c_int32_t)
    if (present(timeout_ms)) o%timeout_ms = timeout_ms
    if (present(stall_ms)) o%stall_ms = stall_ms
    if (present(chunk)) o%chunk = chunk
    call give(c_init(comm, o, ctx), ierr)
  end subroutine

  subroutine init_f08(comm, ctx, ierr, timeout_ms, stall_ms, chunk)
    type(MPI_Comm), intent(in) :: comm
    type(weft_ctx), intent(out) :: ctx
    integer, optional, intent(out) :: ierr
    integer(c_int64_t), optional, intent(in) :: timeout_ms, stall_ms, chunk
    call init_integer(comm%MPI_VAL, ctx, ierr, timeout_ms, stall_ms, chunk)
  end subroutine

  subroutine weft_finalize(ctx, ierr)
    type(weft_ctx), intent(inout) :: ctx
    integer, optional, intent(out) :: ierr
    call give(c_finalize(ctx, -1_c_int64_t), ierr)
  end subroutine

  subroutine group_integer(ctx, comm, name, group, ierr)
    type(weft_ctx), intent(in) :: ctx
    integer, intent(in) :: comm
    character(*), intent(in) :: name
    type(weft_group), intent(out) :: group
    integer, optional, intent(out) :: ierr
    call give(c_group_create(ctx, comm, name//c_null_char, group), ierr)
  end subroutine

  subroutine group_f08(ctx, comm, name, group, ierr)
    type(weft_ctx), intent(in) :: ctx
    type(MPI_Comm), intent(in) :: comm
    character(*), intent(in) :: name
    type(weft_group), intent(out) :: group
    integer, optional, intent(out) :: ierr
    call group_integer(ctx, comm%MPI_VAL, name, group, ierr)
  end subroutine

  pure integer function weft_group_rank(group)
    type(weft_group), intent(in) :: group
    weft_group_rank = c_rank(group)
  end function

  pure integer function weft_group_size(group)
    type(weft_group), intent(in) :: group
    weft_group_size = c_size(group)
  end function

  subroutine weft_commit(ctx, ierr)
    type(weft_ctx), intent(in) :: ctx
    integer, optional, intent(out) :: ierr
    call give(c_commit(ctx), ierr)
  end subroutine

  ! --- small reductions ------------------------------------------------------------------------------------------

  integer(c_int) function post(group, x, n, whole, t, op, request) result(s)
    type(weft_group), intent(in) :: group
    type(c_ptr), intent(in) :: x
    integer(c_size_t), intent(in) :: n
    logical, intent(in) :: whole
    type(weft_dtype), intent(in) :: t
    type(weft_redop), intent(in) :: op
    type(weft_req), intent(out) :: request
    if (.not. whole) then
      write (error_unit, '(a)') 'weft_reduce_post: the array is not contiguous'
      error stop 1
    end if
    s = c_post(group, x, x, n, t, op, request)
  end function

  subroutine post_r4(group, x, op, request, ierr)
    type(weft_group), intent(in) :: group
    real(c_float), dimension(..), target, asynchronous, intent(inout) :: x
    type(weft_redop), intent(in) :: op
    type(weft_req), intent(out) :: request
    integer, optional, intent(out) :: ierr
    call give(post(group, c_loc(x), size(x, kind=c_size_t), is_contiguous(x), WEFT_F32, op, request), ierr)
  end subroutine

  subroutine post_r8(group, x, op, request, ierr)
    type(weft_group), intent(in) :: group
    real(c_double), dimension(..), target, asynchronous, intent(inout) :: x
    type(weft_redop), intent(in) :: op
    type(weft_req), intent(out) :: request
    integer, optional, intent(out) :: ierr
    call give(post(group, c_loc(x), size(x, kind=c_size_t), is_contiguous(x), WEFT_F64, op, request), ierr)
  end subroutine

  subroutine post_i4(group, x, op, request, ierr)
    type(weft_group), intent(in) :: group
    integer(c_int32_t), dimension(..), target, asynchronous, intent(inout) :: x
    type(weft_redop), intent(in) :: op
    type(weft_req), intent(out) :: request
    integer, optional, intent(out) :: ierr
    call give(post(group, c_loc(x), size(x, kind=c_size_t), is_contiguous(x), WEFT_I32, op, request), ierr)
  end subroutine

  subroutine post_i8(group, x, op, request, ierr)
    type(weft_group), intent(in) :: group
    integer(c_int64_t), dimension(..), target, asynchronous, intent(inout) :: x
    type(weft_redop), intent(in) :: op
    type(weft_req), intent(out) :: request
    integer, optional, intent(out) :: ierr
    call give(post(group, c_loc(x), size(x, kind=c_size_t), is_contiguous(x), WEFT_I64, op, request), ierr)
  end subroutine

  subroutine weft_reduce_flush(group, ierr)
    type(weft_group), intent(in) :: group
    integer, optional, intent(out) :: ierr
    call give(c_flush(group), ierr)
  end subroutine

  ! .true. when complete; the request is null then.
  logical function weft_test(request, ierr) result(complete)
    type(weft_req), intent(inout) :: request
    integer, optional, intent(out) :: ierr
    integer(c_int) :: s
    s = c_test(request)
    complete = s /= WEFT_IN_PROGRESS
    call give(s, ierr)
  end function

  subroutine weft_wait(request, ierr, timeout_ms)
    type(weft_req), intent(inout) :: request
    integer, optional, intent(out) :: ierr
    integer(c_int64_t), optional, intent(in) :: timeout_ms
    call give(c_wait(request, patience(timeout_ms)), ierr)
  end subroutine

  integer(c_int64_t) function patience(timeout_ms)
    integer(c_int64_t), optional, intent(in) :: timeout_ms
    patience = -1
    if (present(timeout_ms)) patience = timeout_ms
  end function

  ! --- blocking collectives --------------------------------------------------------------------------------------

  subroutine allreduce_r4(group, x, op, ierr)
    type(weft_group), intent(in) :: group
    real(c_float), dimension(..), contiguous, target, intent(inout) :: x
    type(weft_redop), intent(in) :: op
    integer, optional, intent(out) :: ierr
    call give(c_allreduce(group, c_loc(x), c_loc(x), size(x, kind=c_size_t), WEFT_F32, op), ierr)
  end subroutine

  subroutine allreduce_r8(group, x, op, ierr)
    type(weft_group), intent(in) :: group
    real(c_double), dimension(..), contiguous, target, intent(inout) :: x
    type(weft_redop), intent(in) :: op
    integer, optional, intent(out) :: ierr
    call give(c_allreduce(group, c_loc(x), c_loc(x), size(x, kind=c_size_t), WEFT_F64, op), ierr)
  end subroutine

  subroutine allreduce_i4(group, x, op, ierr)
    type(weft_group), intent(in) :: group
    integer(c_int32_t), dimension(..), contiguous, target, intent(inout) :: x
    type(weft_redop), intent(in) :: op
    integer, optional, intent(out) :: ierr
    call give(c_allreduce(group, c_loc(x), c_loc(x), size(x, kind=c_size_t), WEFT_I32, op), ierr)
  end subroutine

  subroutine allreduce_i8(group, x, op, ierr)
    type(weft_group), intent(in) :: group
    integer(c_int64_t), dimension(..), contiguous, target, intent(inout) :: x
    type(weft_redop), intent(in) :: op
    integer, optional, intent(out) :: ierr
    call give(c_allreduce(group, c_loc(x), c_loc(x), size(x, kind=c_size_t), WEFT_I64, op), ierr)
  end subroutine

  subroutine allreduce_any(group, in, out, n, t, op, ierr)
    type(weft_group), intent(in) :: group
    type(*), dimension(..), contiguous, target, asynchronous, intent(in) :: in
    type(*), dimension(..), contiguous, target, asynchronous :: out
    integer(c_size_t), intent(in) :: n
    type(weft_dtype), intent(in) :: t
    type(weft_redop), intent(in) :: op
    integer, optional, intent(out) :: ierr
    call give(c_allreduce(group, c_loc(in), c_loc(out), n, t, op), ierr)
  end subroutine

  subroutine weft_reduce_scatter(group, in, out, n, t, op, ierr)
    type(weft_group), intent(in) :: group
    type(*), dimension(..), contiguous, target, asynchronous, intent(in) :: in
    type(*), dimension(..), contiguous, target, asynchronous :: out
    integer(c_size_t), intent(in) :: n
    type(weft_dtype), intent(in) :: t
    type(weft_redop), intent(in) :: op
    integer, optional, intent(out) :: ierr
    call give(c_reduce_scatter(group, c_loc(in), c_loc(out), n, t, op), ierr)
  end subroutine

  subroutine weft_allgather(group, in, out, n, t, ierr)
    type(weft_group), intent(in) :: group
    type(*), dimension(..), contiguous, target, asynchronous, intent(in) :: in
    type(*), dimension(..), contiguous, target, asynchronous :: out
    integer(c_size_t), intent(in) :: n
    type(weft_dtype), intent(in) :: t
    integer, optional, intent(out) :: ierr
    call give(c_allgather(group, c_loc(in), c_loc(out), n, t), ierr)
  end subroutine

  subroutine weft_bcast(group, buf, n, t, root, ierr)
    type(weft_group), intent(in) :: group
    type(*), dimension(..), contiguous, target, asynchronous :: buf
    integer(c_size_t), intent(in) :: n
    type(weft_dtype), intent(in) :: t
    integer, intent(in) :: root
    integer, optional, intent(out) :: ierr
    call give(c_bcast(group, c_loc(buf), n, t, int(root, c_int)), ierr)
  end subroutine

  subroutine weft_barrier(group, ierr)
    type(weft_group), intent(in) :: group
    integer, optional, intent(out) :: ierr
    call give(c_barrier(group), ierr)
  end subroutine

  ! --- halos -----------------------------------------------------------------------------------------------------

  ! Bytes from a to b.
  integer(c_ptrdiff_t) function apart(a, b)
    type(c_ptr), intent(in) :: a, b
    apart = transfer(b, 0_c_intptr_t) - transfer(a, 0_c_intptr_t)
  end function

  type(weft_face) function face_r4_1(x, peer, label) result(f)
    real(c_float), target, intent(in) :: x(:)
    integer, intent(in) :: peer, label
    f = weft_face(base=c_loc(x(1)), t=WEFT_F32, nd=1, peer=peer, label=label)
    f%n(1) = size(x, 1)
    if (size(x, 1) > 1) f%stride(1) = apart(c_loc(x(1)), c_loc(x(2)))
  end function

  type(weft_face) function face_r4_2(x, peer, label) result(f)
    real(c_float), target, intent(in) :: x(:,:)
    integer, intent(in) :: peer, label
    f = weft_face(base=c_loc(x(1,1)), t=WEFT_F32, nd=2, peer=peer, label=label)
    f%n(2) = size(x, 1)
    if (size(x, 1) > 1) f%stride(2) = apart(c_loc(x(1,1)), c_loc(x(2,1)))
    f%n(1) = size(x, 2)
    if (size(x, 2) > 1) f%stride(1) = apart(c_loc(x(1,1)), c_loc(x(1,2)))
  end function

  type(weft_face) function face_r4_3(x, peer, label) result(f)
    real(c_float), target, intent(in) :: x(:,:,:)
    integer, intent(in) :: peer, label
    f = weft_face(base=c_loc(x(1,1,1)), t=WEFT_F32, nd=3, peer=peer, label=label)
    f%n(3) = size(x, 1)
    if (size(x, 1) > 1) f%stride(3) = apart(c_loc(x(1,1,1)), c_loc(x(2,1,1)))
    f%n(2) = size(x, 2)
    if (size(x, 2) > 1) f%stride(2) = apart(c_loc(x(1,1,1)), c_loc(x(1,2,1)))
    f%n(1) = size(x, 3)
    if (size(x, 3) > 1) f%stride(1) = apart(c_loc(x(1,1,1)), c_loc(x(1,1,2)))
  end function

  type(weft_face) function face_r8_1(x, peer, label) result(f)
    real(c_double), target, intent(in) :: x(:)
    integer, intent(in) :: peer, label
    f = weft_face(base=c_loc(x(1)), t=WEFT_F64, nd=1, peer=peer, label=label)
    f%n(1) = size(x, 1)
    if (size(x, 1) > 1) f%stride(1) = apart(c_loc(x(1)), c_loc(x(2)))
  end function

  type(weft_face) function face_r8_2(x, peer, label) result(f)
    real(c_double), target, intent(in) :: x(:,:)
    integer, intent(in) :: peer, label
    f = weft_face(base=c_loc(x(1,1)), t=WEFT_F64, nd=2, peer=peer, label=label)
    f%n(2) = size(x, 1)
    if (size(x, 1) > 1) f%stride(2) = apart(c_loc(x(1,1)), c_loc(x(2,1)))
    f%n(1) = size(x, 2)
    if (size(x, 2) > 1) f%stride(1) = apart(c_loc(x(1,1)), c_loc(x(1,2)))
  end function

  type(weft_face) function face_r8_3(x, peer, label) result(f)
    real(c_double), target, intent(in) :: x(:,:,:)
    integer, intent(in) :: peer, label
    f = weft_face(base=c_loc(x(1,1,1)), t=WEFT_F64, nd=3, peer=peer, label=label)
    f%n(3) = size(x, 1)
    if (size(x, 1) > 1) f%stride(3) = apart(c_loc(x(1,1,1)), c_loc(x(2,1,1)))
    f%n(2) = size(x, 2)
    if (size(x, 2) > 1) f%stride(2) = apart(c_loc(x(1,1,1)), c_loc(x(1,2,1)))
    f%n(1) = size(x, 3)
    if (size(x, 3) > 1) f%stride(1) = apart(c_loc(x(1,1,1)), c_loc(x(1,1,2)))
  end function

  subroutine weft_halo_create(group, send, recv, halo, ierr)
    type(weft_group), intent(in) :: group
    type(weft_face), intent(in) :: send(:), recv(:)
    type(weft_halo), intent(out) :: halo
    integer, optional, intent(out) :: ierr
    call give(c_halo_create(group, size(send), send, size(recv), recv, halo), ierr)
  end subroutine

  subroutine weft_halo_start(halo, ierr)
    type(weft_halo), intent(in) :: halo
    integer, optional, intent(out) :: ierr
    call give(c_halo_start(halo), ierr)
  end subroutine

  subroutine weft_halo_wait(halo, ierr, timeout_ms)
    type(weft_halo), intent(in) :: halo
    integer, optional, intent(out) :: ierr
    integer(c_int64_t), optional, intent(in) :: timeout_ms
    call give(c_halo_wait(halo, patience(timeout_ms)), ierr)
  end subroutine

  ! --- bulks -----------------------------------------------------------------------------------------------------

  type(weft_tensor) function tensor_r4(x, prio) result(t)
    real(c_float), dimension(..), contiguous, target, intent(in) :: x
    integer, optional, intent(in) :: prio
    t = weft_tensor(ptr=c_loc(x), n=size(x, kind=c_size_t), t=WEFT_F32)
    if (present(prio)) t%prio = prio
  end function

  type(weft_tensor) function tensor_r8(x, prio) result(t)
    real(c_double), dimension(..), contiguous, target, intent(in) :: x
    integer, optional, intent(in) :: prio
    t = weft_tensor(ptr=c_loc(x), n=size(x, kind=c_size_t), t=WEFT_F64)
    if (present(prio)) t%prio = prio
  end function

  subroutine weft_bulk_create(group, kind, tensors, bulk, ierr, bucket, root, urgent, op)
    type(weft_group), intent(in) :: group
    integer(c_int), intent(in) :: kind
    type(weft_tensor), intent(in) :: tensors(:)
    type(weft_bulk), intent(out) :: bulk
    integer, optional, intent(out) :: ierr
    integer(c_size_t), optional, intent(in) :: bucket
    integer, optional, intent(in) :: root
    logical, optional, intent(in) :: urgent
    type(weft_redop), optional, intent(in) :: op
    type(bulk_opts) :: o
    o = bulk_opts(0, 0, 0, 0, WEFT_SUM)
    o%size = int(c_sizeof(o), c_int32_t)
    if (present(bucket)) o%bucket = bucket
    if (present(root)) o%root = root
    if (present(urgent)) o%urgent = merge(1, 0, urgent)
    if (present(op)) o%op = op
    call give(c_bulk_create(group, kind, size(tensors), tensors, o, bulk), ierr)
  end subroutine

  subroutine weft_bulk_start(bulk, weight, ierr)
    type(weft_bulk), intent(in) :: bulk
    real(c_double), intent(in) :: weight
    integer, optional, intent(out) :: ierr
    call give(c_bulk_start(bulk, weight), ierr)
  end subroutine

  ! Tensor i from 1, or WEFT_ALL, as C counts.
  integer(c_int) function from_zero(i)
    integer, intent(in) :: i
    from_zero = merge(i, i - 1, i == WEFT_ALL)
  end function

  subroutine weft_bulk_ready(bulk, i, ierr)
    type(weft_bulk), intent(in) :: bulk
    integer, intent(in) :: i
    integer, optional, intent(out) :: ierr
    call give(c_bulk_ready(bulk, from_zero(i)), ierr)
  end subroutine

  subroutine weft_bulk_wait(bulk, i, total_weight, ierr, timeout_ms)
    type(weft_bulk), intent(in) :: bulk
    integer, intent(in) :: i
    real(c_double), optional, intent(out) :: total_weight
    integer, optional, intent(out) :: ierr
    integer(c_int64_t), optional, intent(in) :: timeout_ms
    real(c_double) :: total
    integer(c_int) :: s
    s = c_bulk_wait(bulk, from_zero(i), patience(timeout_ms), total)
    if (present(total_weight)) total_weight = total
    call give(s, ierr)
  end subroutine

  ! --- the engine ------------------------------------------------------------------------------------------------

  subroutine weft_progress(ctx, usec, ierr)
    type(weft_ctx), intent(in) :: ctx
    integer(c_int64_t), intent(in) :: usec
    integer, optional, intent(out) :: ierr
    call give(c_progress(ctx, usec), ierr)
  end subroutine

  subroutine weft_quiet(ctx, on, ierr)
    type(weft_ctx), intent(in) :: ctx
    logical, intent(in) :: on
    integer, optional, intent(out) :: ierr
    call give(c_quiet(ctx, merge(1_c_int, 0_c_int, on)), ierr)
  end subroutine

  subroutine weft_raise(ctx, flags, ierr)
    type(weft_ctx), intent(in) :: ctx
    integer(c_int), intent(in) :: flags
    integer, optional, intent(out) :: ierr
    call give(c_raise(ctx, flags), ierr)
  end subroutine

  subroutine weft_step(ctx, agreed, ierr)
    type(weft_ctx), intent(in) :: ctx
    integer(c_int), intent(out) :: agreed
    integer, optional, intent(out) :: ierr
    call give(c_step(ctx, agreed), ierr)
  end subroutine

  subroutine weft_stats(ctx, stats, reset, ierr)
    type(weft_ctx), intent(in) :: ctx
    type(weft_stats_buf), intent(out) :: stats
    logical, intent(in) :: reset
    integer, optional, intent(out) :: ierr
    stats%size = int(c_sizeof(stats), c_int32_t)
    call give(c_stats(ctx, stats, merge(1_c_int, 0_c_int, reset)), ierr)
  end subroutine
end module weft
