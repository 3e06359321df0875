# libweft: all rooms in one shared library with a soname, the public headers, the CMake package and the pkg-config file.
get_property(modules GLOBAL PROPERTY WEFT_MODULES)
file(GENERATE OUTPUT ${PROJECT_BINARY_DIR}/libweft.c CONTENT "/* libweft is made of the rooms alone. */\nextern int weft_nothing;\n")
add_library(weft SHARED ${PROJECT_BINARY_DIR}/libweft.c)
add_library(weft::weft ALIAS weft)
add_dependencies(weft ${modules})
set(files "")
foreach(m ${modules})
  list(APPEND files $<TARGET_FILE:${m}>)
endforeach()
target_link_options(weft PRIVATE -Wl,--whole-archive ${files} -Wl,--no-whole-archive)
set_property(TARGET weft PROPERTY LINK_DEPENDS ${files})
target_link_libraries(weft PRIVATE PkgConfig::fyaml PkgConfig::crypto PkgConfig::ssl PkgConfig::sqlite3 PkgConfig::jansson PkgConfig::xxhash PkgConfig::zstd PkgConfig::zlib PkgConfig::hwloc PkgConfig::hdf5
  MPI::MPI_C Threads::Threads m)
if(ucx_FOUND)
  target_link_libraries(weft PRIVATE PkgConfig::ucx)
endif()
if(microhttpd_FOUND)
  target_link_libraries(weft PRIVATE PkgConfig::microhttpd)
endif()
if(WEFT_HAS_CUDA) # its own CUDA runtime, which is nobody else's business
  target_link_libraries(weft PRIVATE CUDA::cudart_static stdc++) # nvcc compiles the host's side as C++
  target_link_options(weft PRIVATE -Wl,--exclude-libs,libcudart_static.a)
endif()
set_target_properties(weft PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE C
  LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
target_include_directories(weft INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
target_link_libraries(weft INTERFACE MPI::MPI_C)

# Preloaded into MPI programs: their small reductions take weft's LAT lane (comm/pmpi).
add_library(weft_pmpi SHARED comm/pmpi/groups.c comm/pmpi/serve.c comm/pmpi/calls_c.c comm/pmpi/calls_fortran.c)
target_include_directories(weft_pmpi PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(weft_pmpi PRIVATE weft MPI::MPI_C)
set_target_properties(weft_pmpi PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib INSTALL_RPATH "$ORIGIN")

include(CMakePackageConfigHelpers)
install(TARGETS weft_pmpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS weft EXPORT weftTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS weft_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/weft DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY examples/configs DESTINATION ${CMAKE_INSTALL_DATADIR}/weft)
install(EXPORT weftTargets NAMESPACE weft:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weft)
configure_package_config_file(cmake/weftConfig.cmake.in ${PROJECT_BINARY_DIR}/weftConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weft)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/weftConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/weftConfig.cmake ${PROJECT_BINARY_DIR}/weftConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weft)
configure_file(cmake/weft.pc.in ${PROJECT_BINARY_DIR}/weft.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/weft.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# For centres that run Slurm: slurm/README.md.
configure_file(slurm/modulefiles/weft.in ${PROJECT_BINARY_DIR}/modulefile @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/modulefile DESTINATION ${CMAKE_INSTALL_DATADIR}/weft/slurm/modulefiles/weft RENAME ${PROJECT_VERSION})
install(DIRECTORY slurm/env slurm/spack slurm/easybuild slurm/apptainer DESTINATION ${CMAKE_INSTALL_DATADIR}/weft/slurm)
install(PROGRAMS slurm/health/install DESTINATION ${CMAKE_INSTALL_DATADIR}/weft/slurm/health)
