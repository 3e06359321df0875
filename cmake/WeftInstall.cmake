# libweft with its soname, the public headers, the CMake package and the pkg-config file.
get_property(modules GLOBAL PROPERTY WEFT_MODULES)
set(whole "")
foreach(m ${modules})
  list(APPEND whole "$<LINK_LIBRARY:WHOLE_ARCHIVE,${m}>")
endforeach()
