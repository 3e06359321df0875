! What the solver asks of its ranks. carrier_mpi.f90 answers with plain MPI, carrier_weft.f90 with weft; nothing else in
! this example communicates. Errors end the program.
module carrier
  use, intrinsic :: iso_fortran_env, only: real64
  use mpi_f08, only: MPI_Comm
  implicit none

  type, abstract :: carrier_type
    integer :: rank = 0, ranks = 1
  contains
    procedure(open_interface), deferred :: open
    procedure(halo_interface), deferred :: halo
    procedure(reduce_interface), deferred :: reduce
    procedure(records_interface), deferred :: records
    procedure(close_interface), deferred :: close
  end type

  abstract interface
    ! The one field whose halo is exchanged: field(:, 0) comes from the rank before, field(:, columns + 1) from the next.
    subroutine open_interface(self, comm, field)
      import
      class(carrier_type), intent(inout) :: self
      type(MPI_Comm), intent(in) :: comm
      real(real64), contiguous, target, asynchronous, intent(inout) :: field(0:, 0:)
    end subroutine
    subroutine halo_interface(self, field)
      import
      class(carrier_type), intent(inout) :: self
      real(real64), contiguous, target, asynchronous, intent(inout) :: field(0:, 0:)
    end subroutine
    ! Reductions of one moment, in place: sums over the ranks and maxima; both may be empty.
    subroutine reduce_interface(self, sums, maxima)
      import
      class(carrier_type), intent(inout) :: self
      real(real64), contiguous, target, asynchronous, intent(inout) :: sums(:), maxima(:)
    end subroutine
    ! Messages that reductions took since the last call; -1: unknown.
    integer function records_interface(self)
      import
      class(carrier_type), intent(inout) :: self
    end function
    subroutine close_interface(self)
      import
      class(carrier_type), intent(inout) :: self
    end subroutine
  end interface
end module carrier
