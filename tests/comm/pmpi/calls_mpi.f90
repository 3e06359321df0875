! A Fortran program (module mpi) that knows nothing of weft; see calls.c.
program calls
  use mpi
  implicit none
  integer, parameter :: sizes(5) = [1, 5, 127, 512, 700]
  integer :: rank, ranks, ierr, wrong = 0, all_wrong, s, half, copy
  call MPI_Init(ierr)
  call MPI_Comm_rank(MPI_COMM_WORLD, rank, ierr)
  call MPI_Comm_size(MPI_COMM_WORLD, ranks, ierr)
  do s = 1, size(sizes)
    call reductions(MPI_COMM_WORLD, sizes(s))
  end do
  call MPI_Comm_split(MPI_COMM_WORLD, mod(rank, 2), -rank, half, ierr)
  call reductions(half, 9)
  call MPI_Comm_dup(half, copy, ierr)
  call reductions(copy, 10)
  call MPI_Comm_free(copy, ierr)
  call messages()
  call MPI_Barrier(MPI_COMM_WORLD, ierr)
  call MPI_Allreduce(wrong, all_wrong, 1, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, ierr)
  if (rank == 0) print '(i0, a)', all_wrong, ' wrong'
  call MPI_Finalize(ierr)
  if (all_wrong /= 0) stop 1

contains

  subroutine reductions(comm, n)
    integer, intent(in) :: comm, n
    double precision :: x(n), sum(n)
    real :: f(n)
    integer :: i, me, size, low(n), least(n)
    call MPI_Comm_rank(comm, me, ierr)
    call MPI_Comm_size(comm, size, ierr)
    x = [(dble(me + i), i=1, n)]
    sum = -1
    call MPI_Allreduce(x, sum, n, MPI_DOUBLE_PRECISION, MPI_SUM, comm, ierr)
    if (ierr /= MPI_SUCCESS .or. any(sum /= [(dble(size*(size - 1)/2 + size*i), i=1, n)])) wrong = wrong + 1
    call MPI_Allreduce(MPI_IN_PLACE, x, n, MPI_DOUBLE_PRECISION, MPI_MAX, comm, ierr)
    if (any(x /= [(dble(size - 1 + i), i=1, n)])) wrong = wrong + 1
    f = real(me)
    call MPI_Allreduce(MPI_IN_PLACE, f, n, MPI_REAL, MPI_SUM, comm, ierr)
    if (any(f /= real(size*(size - 1)/2))) wrong = wrong + 1
    low = me + 3
    call MPI_Allreduce(low, least, n, MPI_INTEGER, MPI_MIN, comm, ierr)
    if (any(least /= 3)) wrong = wrong + 1
  end subroutine

  subroutine messages()
    integer :: request(2), status(MPI_STATUS_SIZE), statuses(MPI_STATUS_SIZE, 2), out, in, before
    before = mod(rank + ranks - 1, ranks)
    out = rank
    call MPI_Irecv(in, 1, MPI_INTEGER, MPI_ANY_SOURCE, 1, MPI_COMM_WORLD, request(1), ierr)
    call MPI_Isend(out, 1, MPI_INTEGER, mod(rank + 1, ranks), 1, MPI_COMM_WORLD, request(2), ierr)
    call MPI_Waitall(2, request, statuses, ierr)
    if (in /= before .or. statuses(MPI_SOURCE, 1) /= before) wrong = wrong + 1
    if (any(request /= MPI_REQUEST_NULL)) wrong = wrong + 1
    call MPI_Isend(out, 1, MPI_INTEGER, mod(rank + 1, ranks), 2, MPI_COMM_WORLD, request(2), ierr)
    call MPI_Recv(in, 1, MPI_INTEGER, before, MPI_ANY_TAG, MPI_COMM_WORLD, status, ierr)
    if (in /= before .or. status(MPI_TAG) /= 2) wrong = wrong + 1
    call MPI_Wait(request(2), MPI_STATUS_IGNORE, ierr)
    call MPI_Irecv(in, 1, MPI_INTEGER, before, 3, MPI_COMM_WORLD, request(1), ierr)
    call MPI_Send(out, 1, MPI_INTEGER, mod(rank + 1, ranks), 3, MPI_COMM_WORLD, ierr)
    call MPI_Waitall(1, request, MPI_STATUSES_IGNORE, ierr)
    if (in /= before) wrong = wrong + 1
  end subroutine
end program calls
