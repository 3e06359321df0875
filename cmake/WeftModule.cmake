# weft_module(NAME SOURCES ... DEPS ...): one room of the house as a static library weft_NAME.
# All rooms together make libweft (cmake/WeftInstall.cmake); programs and tests link the rooms they use.
set_property(GLOBAL PROPERTY WEFT_MODULES "")
function(weft_module name)
  cmake_parse_arguments(M "" "" "SOURCES;DEPS" ${ARGN})
  add_library(weft_${name} STATIC ${M_SOURCES})
  target_include_directories(weft_${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(weft_${name} PUBLIC ${M_DEPS})
  set_property(GLOBAL APPEND PROPERTY WEFT_MODULES weft_${name})
endfunction()

# weft_long(SECONDS TEST...): tests for scripts/test --long only, and about how long each takes alone on two cores: by that scripts/slice
# deals them to the days. What is longer than a day's part by nature (SOAK instead of SECONDS) is dealt to none.
function(weft_long seconds)
  if(seconds STREQUAL SOAK)
    set(seconds 3600)
    set_property(TEST ${ARGN} APPEND PROPERTY LABELS soak)
  endif()
  set_property(TEST ${ARGN} APPEND PROPERTY LABELS long)
  set_tests_properties(${ARGN} PROPERTIES COST ${seconds})
endfunction()

# weft_test(NAME SOURCES ... DEPS ... [RANKS n] [LABELS ...] [ARGS ...] [TIMEOUT s]): a cmocka program; RANKS runs it
# under mpirun, oversubscribed if need be. Tests labelled sanitize also run under the sanitizers (scripts/test --sanitize).
function(weft_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "SOURCES;DEPS;RANKS;LABELS;ARGS" ${ARGN})
  add_executable(test_${name} ${T_SOURCES})
  target_link_libraries(test_${name} PRIVATE ${T_DEPS} PkgConfig::cmocka)
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 1800) # finds a hang, on a loaded machine too; never a bound of speed
  endif()
  if(WEFT_SANITIZE)
    math(EXPR T_TIMEOUT "4 * ${T_TIMEOUT}")
  endif()
  if(CMAKE_CROSSCOMPILING_EMULATOR)
    math(EXPR T_TIMEOUT "10 * ${T_TIMEOUT}")
  endif()
  if(T_RANKS)
    foreach(n ${T_RANKS})
      set(processors 1) # one or two ranks leave room for another test on two cores: much of their time is starting
      if(n GREATER 2)
        set(processors 2)
      endif()
      add_test(NAME ${name}.${n} COMMAND ${MPIEXEC_EXECUTABLE} ${WEFT_MPIRUN_FLAGS} -n ${n} $<TARGET_FILE:test_${name}> ${T_ARGS})
      set_tests_properties(${name}.${n} PROPERTIES TIMEOUT ${T_TIMEOUT} PROCESSORS ${processors} LABELS "${T_LABELS}" SKIP_RETURN_CODE 77
        ENVIRONMENT ASAN_OPTIONS=detect_leaks=0) # Open MPI leaks
    endforeach()
  else()
    add_test(NAME ${name} COMMAND test_${name} ${T_ARGS})
    set_tests_properties(${name} PROPERTIES TIMEOUT ${T_TIMEOUT} LABELS "${T_LABELS}" SKIP_RETURN_CODE 77)
  endif()
endfunction()
