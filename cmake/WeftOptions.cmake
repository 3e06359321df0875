# Compiler flags that hold for every file. -ffp-contract=off and no -ffast-math are part of the bit contract.
add_compile_options($<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wall> $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wextra>
                    $<$<COMPILE_LANGUAGE:C>:-Wshadow> $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
                    $<$<COMPILE_LANGUAGE:C>:-Wvla> $<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off>
                    $<$<COMPILE_LANGUAGE:C>:-fvisibility=hidden> $<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-fno-omit-frame-pointer>)
add_compile_definitions($<$<COMPILE_LANGUAGE:C>:_GNU_SOURCE>)
if(WEFT_WERROR)
  add_compile_options($<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Werror>)
endif()
if(WEFT_SANITIZE)
  add_compile_options(-fsanitize=${WEFT_SANITIZE} -fno-sanitize-recover=undefined -g -O1)
  add_link_options(-fsanitize=${WEFT_SANITIZE})
  # The vector code of kernels/cpu is long once it is checked: gcc would spend minutes on where its variables live
  # and on checks in line.
  if(CMAKE_C_COMPILER_ID STREQUAL GNU)
    add_compile_options(-fno-var-tracking)
    if(WEFT_SANITIZE MATCHES thread) # the calls it puts in keep gcc from seeing what is set
      add_compile_options(-Wno-maybe-uninitialized)
    endif()
    if(WEFT_SANITIZE MATCHES address)
      add_compile_options(--param=asan-instrumentation-with-call-threshold=500)
    endif()
  endif()
endif()
if(WEFT_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -g -O1)
  add_link_options(-fsanitize=address,undefined)
endif()
