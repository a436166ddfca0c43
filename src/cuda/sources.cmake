# The GPU side. Building it needs no CUDA: the driver and the compiler are opened at run time.
target_sources(bsk PRIVATE
  src/cuda/catalog.cc
  src/cuda/host/compiler.cc
  src/cuda/host/device_kernel.cc
  src/cuda/host/driver.cc
  src/cuda/host/engine.cc
  src/cuda/host/kernel_cache.cc
  src/cuda/host/kernel_library.cc
  src/cuda/host/launch.cc
  src/cuda/host/tensor_map.cc
  src/cuda/sm90/attention_forward/launch.cc
  src/cuda/sm90/attention_forward/task_times.cc
  src/cuda/sm90/attention_forward_small/launch.cc
  src/cuda/sm90/attention_forward_split/launch.cc
  src/cuda/sm90/block_mask_build/launch.cc
  src/cuda/sm90/problem.cc)
target_link_libraries(bsk PUBLIC ${CMAKE_DL_LIBS})

# What compiling a kernel on the user's machine needs, in one folder (scripts/pack_kernel_sources.py).
set(BSK_PACK_KERNELS AUTO CACHE STRING
  "Pack the kernels' sources with the headers they include: ON, OFF, or AUTO, where those are installed")
option(BSK_EMBED_CUBINS "Compile the documented kernels with NVRTC and pack them too" OFF)
set(BSK_NVRTC_LIBRARY "" CACHE FILEPATH
  "The NVRTC of BSK_EMBED_CUBINS; by default that of PyPI's nvidia-cuda-nvrtc, else the system's")
set(pack_kernels ${BSK_PACK_KERNELS})
if(BSK_EMBED_CUBINS)
  set(pack_kernels ON)
endif()
if(pack_kernels)
  find_package(Python COMPONENTS Interpreter)
  execute_process(COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/scripts/pack_kernel_sources.py --check
    RESULT_VARIABLE headers_missing ERROR_VARIABLE why ERROR_STRIP_TRAILING_WHITESPACE)
  if(headers_missing AND pack_kernels STREQUAL "AUTO")
    message(WARNING "This build leaves the GPU kernels out: calls on a GPU will find none. ${why}")
    set(pack_kernels OFF)
  elseif(headers_missing)
    message(FATAL_ERROR "The GPU kernels cannot be packed. ${why}")
  endif()
endif()
if(pack_kernels)
  set(kernel_dir ${CMAKE_CURRENT_BINARY_DIR}/kernels)
  file(GLOB_RECURSE device_sources CONFIGURE_DEPENDS src/cuda/*.cuh src/cuda/*.h)
  add_custom_command(OUTPUT ${kernel_dir}/source.digest
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/scripts/pack_kernel_sources.py
      --root ${CMAKE_CURRENT_SOURCE_DIR} --out ${kernel_dir}
    COMMAND ${CMAKE_COMMAND} -E touch ${kernel_dir}/source.digest
    DEPENDS scripts/pack_kernel_sources.py ${device_sources} VERBATIM)
  add_custom_target(bsk_kernel_sources ALL DEPENDS ${kernel_dir}/source.digest)
  if(BSK_EMBED_CUBINS)
    add_executable(bsk_embed_kernels src/cuda/embed_kernels.cc)
    target_include_directories(bsk_embed_kernels PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_link_libraries(bsk_embed_kernels PRIVATE bsk)
    set(nvrtc_libraries ${BSK_NVRTC_LIBRARY})
    if(NOT nvrtc_libraries)
      execute_process(
        COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/python/blackwell_sparsek/_nvrtc.py
        OUTPUT_VARIABLE nvrtc_libraries OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
      string(REPLACE "\n" ";" nvrtc_libraries "${nvrtc_libraries}")
    endif()
    add_custom_command(OUTPUT ${kernel_dir}/cubins.stamp
      COMMAND ${CMAKE_COMMAND} -E rm -rf ${kernel_dir}/cubins
      COMMAND bsk_embed_kernels ${kernel_dir} ${nvrtc_libraries}
      COMMAND ${CMAKE_COMMAND} -E touch ${kernel_dir}/cubins.stamp
      DEPENDS ${kernel_dir}/source.digest bsk_embed_kernels VERBATIM)
    add_custom_target(bsk_cubins ALL DEPENDS ${kernel_dir}/cubins.stamp)
  endif()
  set(sbom_option --kernels)
  if(SKBUILD)
    install(DIRECTORY ${kernel_dir} DESTINATION blackwell_sparsek PATTERN "*.stamp" EXCLUDE)
  else()
    include(GNUInstallDirs)
    install(DIRECTORY ${kernel_dir} DESTINATION ${CMAKE_INSTALL_DATADIR}/blackwell_sparsek
      PATTERN "*.stamp" EXCLUDE)
    set_source_files_properties(src/cuda/host/engine.cc PROPERTIES COMPILE_DEFINITIONS
      BSK_DEFAULT_KERNEL_DIR="${CMAKE_INSTALL_FULL_DATADIR}/blackwell_sparsek/kernels")
  endif()
endif()
