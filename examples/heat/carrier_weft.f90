! weft: a planned halo; the reductions of one moment in one message.
module carrier_weft
  use, intrinsic :: iso_fortran_env, only: real64
  use mpi_f08, only: MPI_Comm
  use carrier
  use weft
  implicit none

  type, extends(carrier_type) :: weft_carrier
    type(weft_ctx) :: ctx
    type(weft_group) :: all
    type(weft_halo) :: plan
  contains
    procedure :: open => open_weft
    procedure :: halo => halo_weft
    procedure :: reduce => reduce_weft
    procedure :: records => records_weft
    procedure :: close => close_weft
  end type

contains

  subroutine open_weft(self, comm, field)
    class(weft_carrier), intent(inout) :: self
    type(MPI_Comm), intent(in) :: comm
    real(real64), contiguous, target, asynchronous, intent(inout) :: field(0:, 0:)
    type(weft_face) :: send(2), recv(2)
    integer :: n, last
    call weft_init(comm, self%ctx)
    call weft_group_create(self%ctx, comm, 'heat', self%all)
    self%rank = weft_group_rank(self%all)
    self%ranks = weft_group_size(self%all)
    last = ubound(field, 2) - 1
    n = 0
    ! A label is a direction: 0 towards the first rank, 1 towards the last.
    if (self%rank > 0) then
      n = n + 1
      send(n) = weft_face_of(field(:, 1), self%rank - 1, 0)
      recv(n) = weft_face_of(field(:, 0), self%rank - 1, 1)
    end if
    if (self%rank < self%ranks - 1) then
      n = n + 1
      send(n) = weft_face_of(field(:, last), self%rank + 1, 1)
      recv(n) = weft_face_of(field(:, last + 1), self%rank + 1, 0)
    end if
    call weft_halo_create(self%all, send(:n), recv(:n), self%plan)
    call weft_commit(self%ctx)
  end subroutine

  subroutine halo_weft(self, field)
    class(weft_carrier), intent(inout) :: self
    real(real64), contiguous, target, asynchronous, intent(inout) :: field(0:, 0:)
    call weft_halo_start(self%plan)
    call weft_halo_wait(self%plan)
    if (size(field) < 0) return ! field is what the plan was made for
  end subroutine

  subroutine reduce_weft(self, sums, maxima)
    class(weft_carrier), intent(inout) :: self
    real(real64), contiguous, target, asynchronous, intent(inout) :: sums(:), maxima(:)
    type(weft_req) :: request(2)
    if (size(sums) > 0) call weft_reduce_post(self%all, sums, WEFT_SUM, request(1))
    if (size(maxima) > 0) call weft_reduce_post(self%all, maxima, WEFT_MAX, request(2))
    call weft_wait(request(1))
    call weft_wait(request(2))
  end subroutine

  integer function records_weft(self)
    class(weft_carrier), intent(inout) :: self
    type(weft_stats_buf) :: stats
    call weft_stats(self%ctx, stats, reset=.true.)
    records_weft = int(stats%records)
  end function

  subroutine close_weft(self)
    class(weft_carrier), intent(inout) :: self
    call weft_finalize(self%ctx)
  end subroutine
end module carrier_weft
