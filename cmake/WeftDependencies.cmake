# Libraries taken, and why: docs/dependencies.md.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
pkg_check_modules(fyaml REQUIRED IMPORTED_TARGET libfyaml)
pkg_check_modules(jansson REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(hwloc REQUIRED IMPORTED_TARGET hwloc)
pkg_check_modules(hdf5 REQUIRED IMPORTED_TARGET hdf5-openmpi)
if(WEFT_TESTS)
  pkg_check_modules(cmocka REQUIRED IMPORTED_TARGET cmocka)
endif()
# More ranks than cores is normal for tests; root is normal in containers.
set(WEFT_MPIRUN_FLAGS --oversubscribe --allow-run-as-root --bind-to none --mca btl self,vader)
