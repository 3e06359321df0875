! The program: options, the loop over grids and methods, what is printed and what is checked.
program heat
  use, intrinsic :: iso_fortran_env, only: real64, int64, error_unit
  use mpi_f08
  use carrier
  use carrier_mpi
  use carrier_weft
  use solver
  implicit none

  character(8), parameter :: methods(3) = [character(8) :: 'textbook', 'fused', 'one']
  real(real64), parameter :: tolerance = 1e-10_real64
  character(8) :: comm = 'weft', method = 'all'
  integer :: n = 32, grids = 1, level, rank, ranks, bad = 0
  logical :: json = .false., check = .false., broken = .false., help = .false.

  call MPI_Init_thread(MPI_THREAD_FUNNELED, level)
  call MPI_Comm_rank(MPI_COMM_WORLD, rank)
  call MPI_Comm_size(MPI_COMM_WORLD, ranks)
  call read_options(bad)
  if (help .and. rank == 0) call usage()
  if (bad == 0 .and. .not. help) call run_all(bad)
  call MPI_Finalize()
  if (bad /= 0) stop bad, quiet=.true.

contains

  subroutine usage()
    print '(a)', 'The steady temperature of a plate, by conjugate gradients.', &
      '  mpirun -n RANKS heat [OPTIONS]', &
      '  --n POINTS         along each side, a multiple of 16 (32)', &
      '  --grids COUNT      also 2n, 4n ... points, and the order of convergence (1)', &
      '  --method textbook|fused|one|all   3, 2 or 1 reductions an iteration (all)', &
      '  --comm weft|mpi    who communicates (weft)', &
      '  --check            exit 1 unless the solution is as good as it should be', &
      '  --json             one JSON object a grid and method', &
      '  --break dot        leaves a part out of the sums, so that --check must fail', &
      '  --help'
  end subroutine

  subroutine complain(text)
    character(*), intent(in) :: text
    if (rank == 0) write (error_unit, '(2a)') 'heat: ', text
  end subroutine

  subroutine read_options(wrong)
    integer, intent(out) :: wrong
    character(64) :: option, value
    integer :: i, io
    wrong = 0
    i = 1
    do while (i <= command_argument_count() .and. wrong == 0)
      call get_command_argument(i, option)
      value = ''
      if (i < command_argument_count()) call get_command_argument(i + 1, value)
      io = 0
      select case (option)
      case ('--help'); help = .true.
      case ('--json'); json = .true.
      case ('--check'); check = .true.
      case ('--n'); read (value, *, iostat=io) n; i = i + 1
      case ('--grids'); read (value, *, iostat=io) grids; i = i + 1
      case ('--comm'); comm = value(:8); i = i + 1
      case ('--method'); method = value(:8); i = i + 1
      case ('--break'); broken = value == 'dot'; if (.not. broken) io = 1; i = i + 1
      case default
        call complain("unknown option '"//trim(option)//"'; see --help")
        wrong = 64
      end select
      if (io /= 0) then
        call complain("'"//trim(value)//"' is no value for "//trim(option)//'; see --help')
        wrong = 64
      end if
      i = i + 1
    end do
    if (wrong /= 0) return
    if (n < BLOCKS .or. mod(n, BLOCKS) /= 0 .or. n > 8192) wrong = refuse('--n must be a multiple of 16 up to 8192')
    if (grids < 1 .or. grids > 6) wrong = refuse('--grids must be 1 to 6')
    if (comm /= 'weft' .and. comm /= 'mpi') wrong = refuse('--comm must be weft or mpi')
    if (method /= 'all' .and. .not. any(method == methods)) wrong = refuse('--method is unknown; see --help')
    if (ranks > BLOCKS) wrong = refuse('at most 16 ranks')
  end subroutine

  integer function refuse(text)
    character(*), intent(in) :: text
    call complain(text)
    refuse = 64
  end function

  subroutine run_all(failed)
    integer, intent(out) :: failed
    real(real64) :: error(3, 6)
    integer :: iterations(3, 6), m, g
    failed = 0
    do g = 1, grids
      do m = 1, 3
        if (method /= 'all' .and. method /= methods(m)) cycle
        call run(g, m, error, iterations)
        if (check) call judge(g, m, error, iterations, failed)
      end do
    end do
  end subroutine

  subroutine run(g, m, error, iterations)
    integer, intent(in) :: g, m
    real(real64), intent(inout) :: error(:, :)
    integer, intent(inout) :: iterations(:, :)
    class(carrier_type), allocatable :: c
    type(problem) :: s
    integer(int64) :: sum
    integer :: points, records
    real(real64) :: seconds
    points = n*2**(g - 1)
    if (comm == 'mpi') then
      allocate (mpi_carrier :: c)
    else
      allocate (weft_carrier :: c)
    end if
    s%broken = broken
    call make_problem(s, points, rank, ranks)
    call c%open(MPI_COMM_WORLD, s%p)
    records = c%records()
    seconds = MPI_Wtime()
    call solve(s, c, trim(methods(m)), tolerance, 8*points, iterations(m, g))
    seconds = MPI_Wtime() - seconds
    records = c%records()
    error(m, g) = error_of(s, c)
    call checksum_of(s, c, sum)
    call c%close()
    deallocate (s%p)
    if (rank == 0) call show(points, m, iterations(m, g), records, seconds, error(m, g), order(g, m, error), sum)
    if (check .and. ranks > 1 .and. records >= 0) then
      if (abs(records - (4 - m)*iterations(m, g)) > 1) then
        call complain('reductions took a wrong number of messages')
        call MPI_Abort(MPI_COMM_WORLD, 1)
      end if
    end if
  end subroutine

  pure real(real64) function order(g, m, error)
    integer, intent(in) :: g, m
    real(real64), intent(in) :: error(:, :)
    order = 0
    if (g > 1) order = log(error(m, g - 1)/error(m, g))/ &
      log(real(n*2**(g - 1) + 1, real64)/real(n*2**(g - 2) + 1, real64))
  end function

  subroutine show(points, m, iterations, records, seconds, error, rate, sum)
    integer, intent(in) :: points, m, iterations, records
    real(real64), intent(in) :: seconds, error, rate
    integer(int64), intent(in) :: sum
    if (json) then
      print '(a, 5(a, i0), a, f0.6, a, es12.6, a, f7.4, a, z16.16, a)', &
        '{"method": "'//trim(methods(m))//'", "comm": "'//trim(comm)//'"', ', "n": ', points, ', "ranks": ', ranks, &
        ', "iterations": ', iterations, ', "records": ', records, ', "reductions": ', 4 - m, ', "seconds": 0', seconds, &
        ', "error": ', error, ', "order": ', rate, ', "checksum": "', sum, '"}'
    else
      print '(a8, 1x, a4, i6, a, i6, a, i7, a, f9.4, a, es10.3, a, f5.2, a, z16.16)', methods(m), comm, points, &
        ' points', iterations, ' iterations', records, ' messages', seconds, ' s  error ', error, '  order ', rate, &
        '  checksum ', sum
    end if
  end subroutine

  subroutine judge(g, m, error, iterations, failed)
    integer, intent(in) :: g, m
    real(real64), intent(in) :: error(:, :)
    integer, intent(in) :: iterations(:, :)
    integer, intent(inout) :: failed
    if (iterations(m, g) < 0) then
      call complain(trim(methods(m))//' did not converge')
      failed = 1
    else if (method == 'all' .and. abs(iterations(m, g) - iterations(1, g)) > 1) then
      call complain(trim(methods(m))//' takes another number of iterations than textbook')
      failed = 1
    end if
    if (g > 1) then
      if (.not. order(g, m, error) >= 1.9_real64) then
        call complain(trim(methods(m))//': the order of convergence is below 1.9')
        failed = 1
      end if
    end if
  end subroutine
end program heat
