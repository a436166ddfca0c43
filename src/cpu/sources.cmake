# The CPU kernels.
find_package(OpenMP REQUIRED COMPONENTS CXX)
target_sources(bsk PRIVATE
  src/cpu/attention_cpu.cc
  src/cpu/instruction_set.cc
  src/cpu/reference.cc)
target_link_libraries(bsk PRIVATE OpenMP::OpenMP_CXX)

# The tile function, compiled once per instruction set; instruction_set.cc chooses at run time. No
# contraction of a * b + c: see src/cpu/tile/simd.h.
if(BSK_SANITIZE)
  set(tile_optimization -O1)  # the checks in unrolled loops take -O3 half a minute a file
else()
  set(tile_optimization -O3)
endif()
function(bsk_tile_function name)
  add_library(bsk_tile_${name} OBJECT src/cpu/tile/attend_tile.cc)
  target_include_directories(bsk_tile_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_definitions(bsk_tile_${name} PRIVATE BSK_CPU_ISA=attend_tile_${name})
  target_compile_options(bsk_tile_${name} PRIVATE ${tile_optimization} -ffp-contract=off ${ARGN})
  target_sources(bsk PRIVATE $<TARGET_OBJECTS:bsk_tile_${name}>)
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  bsk_tile_function(avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  bsk_tile_function(avx2 -march=x86-64-v3)
  bsk_tile_function(baseline -march=x86-64)
  target_compile_definitions(bsk PRIVATE BSK_CPU_HAS_X86_LEVELS)
else()
  bsk_tile_function(baseline)
endif()
