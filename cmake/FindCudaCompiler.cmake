# Sets DCN_DEPLOY_CUDA_COMPILER_FOUND, and DCN_DEPLOY_CUDA_COMPILER_REASON if there is no nvcc that can compile for every
# supported architecture.

include(CheckLanguage)
# The check compiles for what is asked here; without it, CMake would ask the GPU of this machine, which may have none.
set(CMAKE_CUDA_ARCHITECTURES "${DCN_DEPLOY_CUDA_ARCHITECTURES}")
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
check_language(CUDA)

set(DCN_DEPLOY_CUDA_COMPILER_FOUND FALSE)
if(NOT CMAKE_CUDA_COMPILER)
  set(DCN_DEPLOY_CUDA_COMPILER_REASON "none was found that works")
else()
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --version OUTPUT_VARIABLE version ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" version "${version}")
  # The first that knows SM 10.0 and 12.0.
  if(CMAKE_MATCH_1 AND CMAKE_MATCH_1 VERSION_LESS 12.8)
    set(DCN_DEPLOY_CUDA_COMPILER_REASON "${CMAKE_CUDA_COMPILER} is of CUDA ${CMAKE_MATCH_1}")
  else()
    set(DCN_DEPLOY_CUDA_COMPILER_FOUND TRUE)
  endif()
endif()
