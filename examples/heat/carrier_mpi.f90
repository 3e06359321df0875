! Plain MPI.
module carrier_mpi
  use, intrinsic :: iso_fortran_env, only: real64
  use mpi_f08
  use carrier
  implicit none

  type, extends(carrier_type) :: mpi_carrier
    type(MPI_Comm) :: comm
  contains
    procedure :: open => open_mpi
    procedure :: halo => halo_mpi
    procedure :: reduce => reduce_mpi
    procedure :: records => records_mpi
    procedure :: close => close_mpi
  end type

contains

  subroutine open_mpi(self, comm, field)
    class(mpi_carrier), intent(inout) :: self
    type(MPI_Comm), intent(in) :: comm
    real(real64), contiguous, target, asynchronous, intent(inout) :: field(0:, 0:)
    call MPI_Comm_dup(comm, self%comm)
    call MPI_Comm_rank(comm, self%rank)
    call MPI_Comm_size(comm, self%ranks)
    field(:, ubound(field, 2)) = 0
  end subroutine

  subroutine halo_mpi(self, field)
    class(mpi_carrier), intent(inout) :: self
    real(real64), contiguous, target, asynchronous, intent(inout) :: field(0:, 0:)
    type(MPI_Request) :: request(4)
    integer :: n, last
    n = size(field, 1)
    last = ubound(field, 2) - 1
    request = MPI_REQUEST_NULL
    if (self%rank > 0) then
      call MPI_Irecv(field(:, 0), n, MPI_DOUBLE_PRECISION, self%rank - 1, 1, self%comm, request(1))
      call MPI_Isend(field(:, 1), n, MPI_DOUBLE_PRECISION, self%rank - 1, 0, self%comm, request(2))
    end if
    if (self%rank < self%ranks - 1) then
      call MPI_Irecv(field(:, last + 1), n, MPI_DOUBLE_PRECISION, self%rank + 1, 0, self%comm, request(3))
      call MPI_Isend(field(:, last), n, MPI_DOUBLE_PRECISION, self%rank + 1, 1, self%comm, request(4))
    end if
    call MPI_Waitall(4, request, MPI_STATUSES_IGNORE)
  end subroutine

  subroutine reduce_mpi(self, sums, maxima)
    class(mpi_carrier), intent(inout) :: self
    real(real64), contiguous, target, asynchronous, intent(inout) :: sums(:), maxima(:)
    if (size(sums) > 0) &
      call MPI_Allreduce(MPI_IN_PLACE, sums, size(sums), MPI_DOUBLE_PRECISION, MPI_SUM, self%comm)
    if (size(maxima) > 0) &
      call MPI_Allreduce(MPI_IN_PLACE, maxima, size(maxima), MPI_DOUBLE_PRECISION, MPI_MAX, self%comm)
  end subroutine

  integer function records_mpi(self)
    class(mpi_carrier), intent(inout) :: self
    records_mpi = -1
    if (self%ranks < 1) records_mpi = 0
  end function

  subroutine close_mpi(self)
    class(mpi_carrier), intent(inout) :: self
    call MPI_Comm_free(self%comm)
  end subroutine
end module carrier_mpi
