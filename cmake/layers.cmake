# Compiler flags and the helper that turns a folder of src/ into a library and a test program.

# Baseline: x86-64-v2. Faster instruction sets live in files named *_avx2.cc and *_avx512.cc and
# are chosen at run time. -ffp-contract=off: the compiler must not decide where products are fused,
# or results would differ between instruction sets.
add_compile_options(-Wall -Wextra -Wshadow -Wno-missing-field-initializers -ffp-contract=off)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-Wno-restrict)  # false alarms on `"literal" + std::string` (GCC bug 105329)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_compile_options(-Wno-unknown-warning-option)  # pragmas name warnings that only GCC has
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  add_compile_options(-march=x86-64-v2)
endif()
if(PLANISH_WERROR)
  add_compile_options(-Werror)
endif()
if(PLANISH_SANITIZE)
  add_compile_options(-fsanitize=${PLANISH_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${PLANISH_SANITIZE})
endif()
if(PLANISH_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()

set(PLANISH_AVX2_FLAGS "-mavx2 -mfma -mf16c")
set(PLANISH_NEON_FLAGS "-march=armv8.2-a+dotprod")
set(PLANISH_AVX512_FLAGS "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512")

# Tests wait for what they test, and for the compiler: their own code needs no optimizing.
set(PLANISH_TEST_OPTIONS $<$<CONFIG:Release>:-O1>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # At -O1 GCC 12 takes branches of std::string that are never taken for overflows.
  list(APPEND PLANISH_TEST_OPTIONS -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread)
endif()

set(PLANISH_LAYERS_SO_FAR "" CACHE INTERNAL "")

# Half of a cold build is parsing the same few headers: parsed once for the libraries and once, with
# GoogleTest, for the test programs. Sources still include what they use.
function(planish_precompiled name)
  cmake_parse_arguments(ARG "" "" "HEADERS;LIBS;OPTIONS" ${ARGN})
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/${name}.cc CONTENT "" @ONLY)
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/generated/${name}.cc)
  target_link_libraries(${name} PUBLIC ${ARG_LIBS})
  target_precompile_headers(${name} PRIVATE ${ARG_HEADERS})
  target_compile_options(${name} PRIVATE ${ARG_OPTIONS})
endfunction()

# A layer's sources are compiled as one, and so are its tests: much of the time a source takes by itself goes into
# the same headers and templates. That makes the names in anonymous namespaces a layer's own: two files that need
# the same helper share it, two that mean different things by a name find a better one, and the compiler says so.
# Kernels stay apart, as each instruction set makes its own from the same source (*-inl.h), and so does cpu.cc, which
# tests replace by a processor of their own.
function(planish_separate)
  foreach(source ${ARGN})
    if(source MATCHES "(_scalar|_sse4|/base/cpu)\\.cc$")
      set_source_files_properties(${source} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    endif()
  endforeach()
endfunction()

# planish_layer(name [LIBS target...]): library planish_<name> from src/<name>/**/*.cc, and, when
# there are *_test.cc files, program <name>_test registered as a fast test and, when any test's
# name holds "Slow", also as a slow one.
function(planish_layer name)
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    list(FILTER sources EXCLUDE REGEX "_neon\\.cc$")
  endif()
  foreach(source ${sources})
    if(source MATCHES "_avx2\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_FLAGS "${PLANISH_AVX2_FLAGS}"
        SKIP_PRECOMPILE_HEADERS ON)
    elseif(source MATCHES "_avx512bf16\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_FLAGS "${PLANISH_AVX512_FLAGS} -mavx512bf16"
        SKIP_PRECOMPILE_HEADERS ON)
    elseif(source MATCHES "_(avx512|amx)\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_FLAGS "${PLANISH_AVX512_FLAGS}"
        SKIP_PRECOMPILE_HEADERS ON)
    elseif(source MATCHES "_neon\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_FLAGS "${PLANISH_NEON_FLAGS}"
        SKIP_PRECOMPILE_HEADERS ON)
    endif()
    # Hundreds of kernels, everything inlined: instrumented, a file takes Clang more than four minutes, else under
    # one. What they read the scalar kernels read too, and those are instrumented.
    if(PLANISH_SANITIZE AND source MATCHES "/packed_(vnni_)?(avx2|avx512|neon)\\.cc$")
      set_property(SOURCE ${source} APPEND_STRING PROPERTY COMPILE_FLAGS " -fno-sanitize=all -O1")
    endif()
  endforeach()
  planish_separate(${sources})
  if(sources)
    add_library(planish_${name} STATIC ${sources})
    set_target_properties(planish_${name} PROPERTIES UNITY_BUILD ${PLANISH_UNITY} UNITY_BUILD_BATCH_SIZE 0)
    target_include_directories(planish_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(planish_${name} PUBLIC ${PLANISH_LAYERS_SO_FAR} ${ARG_LIBS})
    target_precompile_headers(planish_${name} REUSE_FROM planish_headers)
    set(PLANISH_LAYERS_SO_FAR planish_${name} ${PLANISH_LAYERS_SO_FAR} CACHE INTERNAL "")
  endif()
  if(tests)
    planish_test(${name}_test ${tests})
  endif()
endfunction()

function(planish_test name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE ${PLANISH_LAYERS_SO_FAR} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES UNITY_BUILD ${PLANISH_UNITY} UNITY_BUILD_BATCH_SIZE 0)
  target_precompile_headers(${name} REUSE_FROM planish_test_headers)
  target_compile_options(${name} PRIVATE ${PLANISH_TEST_OPTIONS})
  target_compile_definitions(${name} PRIVATE
    PLANISH_SHARED_DIR="${PLANISH_SHARED_DIR}" PLANISH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  # Under sanitizers whole models are left to the release build: they would take most of an hour.
  set(excluded "*Slow*")
  if(PLANISH_SANITIZE)
    string(APPEND excluded ":*Golden*:Strict.*:CompressDemo.*")
  endif()
  add_test(NAME ${name} COMMAND ${name} --gtest_filter=-${excluded} --gtest_brief=1)
  set_tests_properties(${name} PROPERTIES LABELS fast TIMEOUT 600)
  set(has_slow FALSE)
  foreach(file ${ARGN})
    file(STRINGS ${file} slow REGEX "^TEST.*Slow")
    if(slow)
      set(has_slow TRUE)
    endif()
  endforeach()
  if(has_slow)
    add_test(NAME ${name}_slow COMMAND ${name} --gtest_filter=*Slow* --gtest_brief=1)
    set_tests_properties(${name}_slow PROPERTIES LABELS slow TIMEOUT 2400)
  endif()
endfunction()
