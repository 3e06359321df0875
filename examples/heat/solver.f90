! The steady temperature of a square plate: -laplace(u) = f, u = 0 on the edge, by conjugate gradients on five points.
! Three forms of the method, which differ in how often the ranks must wait for each other in an iteration:
!   textbook  3 reductions: p.Ap, r.r, and the norm of r
!   fused     2: r.r and the norm together
!   one       1: Chronopoulos and Gear (J. Comput. Appl. Math. 25, 1989): r.r, r.Ar and the norm together
!
! Sums feed back here, so their order must not depend on the ranks: each of BLOCKS slices of the plate is summed by
! itself, a reduction only adds zeros to it, and every rank adds up the slices in the same order. The solution has the
! same bits for any number of ranks and any carrier.
module solver
  use, intrinsic :: iso_fortran_env, only: real64, int64
  use carrier
  implicit none
  private
  public :: problem, make_problem, solve, error_of, checksum_of
  integer, parameter, public :: BLOCKS = 16

  type :: problem
    integer :: n = 0             ! inner points along each side
    integer :: first = 0, own = 0 ! this rank's columns: first + 1 to first + own
    real(real64) :: h = 0
    real(real64), allocatable :: b(:, :), x(:, :), r(:, :), ap(:, :)
    real(real64), pointer, contiguous :: p(:, :) => null() ! with a frame: the operand of A, whose halo is exchanged
    logical :: broken = .false.  ! leaves a slice out of the sums
  end type

contains

  ! u = (x - x^2) e^x (y - y^2) e^2y
  pure real(real64) function exact(x, y)
    real(real64), intent(in) :: x, y
    exact = (x - x*x)*exp(x)*(y - y*y)*exp(2*y)
  end function

  pure real(real64) function source(x, y)
    real(real64), intent(in) :: x, y
    source = -((-3*x - x*x)*exp(x)*(y - y*y)*exp(2*y) + (x - x*x)*exp(x)*(2 - 4*y - 4*y*y)*exp(2*y))
  end function

  subroutine make_problem(s, n, rank, ranks)
    type(problem), intent(inout) :: s
    integer, intent(in) :: n, rank, ranks
    integer :: i, j
    s%n = n
    s%first = n/BLOCKS*(BLOCKS*rank/ranks)
    s%own = n/BLOCKS*(BLOCKS*(rank + 1)/ranks) - s%first
    s%h = 1/real(n + 1, real64)
    allocate (s%b(n, s%own), s%x(n, s%own), s%r(n, s%own), s%ap(n, s%own), s%p(0:n + 1, 0:s%own + 1))
    do j = 1, s%own
      do i = 1, n
        s%b(i, j) = s%h**2*source(i*s%h, (s%first + j)*s%h)
      end do
    end do
    s%x = 0
    s%p = 0
  end subroutine

  ! ap = A p, after the halo of p.
  subroutine apply(s, c)
    type(problem), intent(inout) :: s
    class(carrier_type), intent(inout) :: c
    integer :: i, j
    call c%halo(s%p)
    do j = 1, s%own
      do i = 1, s%n
        s%ap(i, j) = 4*s%p(i, j) - s%p(i - 1, j) - s%p(i + 1, j) - s%p(i, j - 1) - s%p(i, j + 1)
      end do
    end do
  end subroutine

  ! The slices of a.b that this rank has; zero elsewhere.
  subroutine slices(s, a, b, out)
    type(problem), intent(in) :: s
    real(real64), intent(in) :: a(:, :), b(:, :)
    real(real64), intent(out) :: out(BLOCKS)
    integer :: i, j, k, wide
    out = 0
    wide = s%n/BLOCKS
    do j = 1, s%own
      k = (s%first + j - 1)/wide + 1
      if (s%broken .and. k == 1) cycle
      do i = 1, s%n
        out(k) = out(k) + a(i, j)*b(i, j)
      end do
    end do
  end subroutine

  pure real(real64) function total(slice)
    real(real64), intent(in) :: slice(BLOCKS)
    integer :: k
    total = 0
    do k = 1, BLOCKS
      total = total + slice(k)
    end do
  end function

  ! Solves to |r| <= tolerance |b| (maximum norms); iterations: -1 if it takes more than `most`.
  subroutine solve(s, c, method, tolerance, most, iterations)
    type(problem), intent(inout) :: s
    class(carrier_type), intent(inout) :: c
    character(*), intent(in) :: method
    real(real64), intent(in) :: tolerance
    integer, intent(in) :: most
    integer, intent(out) :: iterations
    if (method == 'one') then
      call solve_one(s, c, tolerance, most, iterations)
    else
      call solve_two(s, c, method == 'textbook', tolerance, most, iterations)
    end if
  end subroutine

  subroutine solve_two(s, c, apart, tolerance, most, iterations)
    type(problem), intent(inout) :: s
    class(carrier_type), intent(inout) :: c
    logical, intent(in) :: apart
    real(real64), intent(in) :: tolerance
    integer, intent(in) :: most
    integer, intent(out) :: iterations
    real(real64), target, asynchronous :: slice(BLOCKS), norm(1), none(0)
    real(real64) :: rr, before, alpha, goal
    s%r = s%b
    s%p(1:s%n, 1:s%own) = s%r
    call slices(s, s%r, s%r, slice)
    norm = maxval(abs(s%r))
    call c%reduce(slice, norm)
    rr = total(slice)
    goal = tolerance*norm(1)
    do iterations = 1, most
      call apply(s, c)
      call slices(s, s%p(1:s%n, 1:s%own), s%ap, slice)
      call c%reduce(slice, none)
      alpha = rr/total(slice)
      s%x = s%x + alpha*s%p(1:s%n, 1:s%own)
      s%r = s%r - alpha*s%ap
      call slices(s, s%r, s%r, slice)
      norm = maxval(abs(s%r))
      if (apart) then
        call c%reduce(slice, none)
        call c%reduce(none, norm)
      else
        call c%reduce(slice, norm)
      end if
      if (norm(1) <= goal) return
      before = rr
      rr = total(slice)
      s%p(1:s%n, 1:s%own) = s%r + rr/before*s%p(1:s%n, 1:s%own)
    end do
    iterations = -1
  end subroutine

  ! The field whose halo travels is r here (in s%p): w = A r.
  subroutine solve_one(s, c, tolerance, most, iterations)
    type(problem), intent(inout) :: s
    class(carrier_type), intent(inout) :: c
    real(real64), intent(in) :: tolerance
    integer, intent(in) :: most
    integer, intent(out) :: iterations
    real(real64), allocatable :: direction(:, :), image(:, :)
    real(real64), target, asynchronous :: slice(2*BLOCKS), norm(1)
    real(real64) :: rr, rw, before, alpha, beta, goal
    allocate (direction(s%n, s%own), image(s%n, s%own))
    direction = 0
    image = 0
    s%r = s%b
    beta = 0
    alpha = 0
    before = 1
    goal = 0
    do iterations = 0, most
      s%p(1:s%n, 1:s%own) = s%r
      call apply(s, c)
      call slices(s, s%r, s%r, slice(:BLOCKS))
      call slices(s, s%r, s%ap, slice(BLOCKS + 1:))
      norm = maxval(abs(s%r))
      call c%reduce(slice, norm)
      if (iterations == 0) goal = tolerance*norm(1)
      if (norm(1) <= goal) return
      rr = total(slice(:BLOCKS))
      rw = total(slice(BLOCKS + 1:))
      if (iterations == 0) then
        alpha = rr/rw
      else
        beta = rr/before
        alpha = rr/(rw - beta*rr/alpha)
      end if
      before = rr
      direction = s%r + beta*direction
      image = s%ap + beta*image
      s%x = s%x + alpha*direction
      s%r = s%r - alpha*image
    end do
    iterations = -1
  end subroutine

  real(real64) function error_of(s, c)
    type(problem), intent(in) :: s
    class(carrier_type), intent(inout) :: c
    real(real64), target, asynchronous :: largest(1), none(0)
    integer :: i, j
    largest = 0
    do j = 1, s%own
      do i = 1, s%n
        largest(1) = max(largest(1), abs(s%x(i, j) - exact(i*s%h, (s%first + j)*s%h)))
      end do
    end do
    call c%reduce(none, largest)
    error_of = largest(1)
  end function

  ! Of all values and their places: 16-bit pieces, so that the sum over ranks is exact in real(8).
  subroutine checksum_of(s, c, sum)
    type(problem), intent(in) :: s
    class(carrier_type), intent(inout) :: c
    integer(int64), intent(out) :: sum
    integer(int64), parameter :: odd = 6364136223846793005_int64
    real(real64), target, asynchronous :: piece(4), none(0)
    integer(int64) :: bits
    integer :: i, j, k
    piece = 0
    do j = 1, s%own
      do i = 1, s%n
        bits = transfer(s%x(i, j), bits)
        bits = ieor(bits, ishft(bits, -29))*odd + int(i, int64)*int(s%first + j, int64)
        bits = ieor(bits, ishft(bits, -32))*odd
        bits = ieor(bits, ishft(bits, -29))
        do k = 1, 4
          piece(k) = piece(k) + real(ibits(bits, 16*(k - 1), 16), real64)
        end do
      end do
    end do
    call c%reduce(piece, none)
    sum = 0
    do k = 1, 4
      sum = ieor(sum, ishft(int(mod(piece(k), 65536.0_real64), int64), 16*(k - 1)))
    end do
  end subroutine
end module solver
