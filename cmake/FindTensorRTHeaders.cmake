# Finds the headers of TensorRT. The library itself is not needed: a plugin library is called by the TensorRT that loads
# it, and calls it back only through the objects that it is given.
#
# Looks in TENSORRT_ROOT (variable of CMake or of the environment), then in the system, then in the package kernel-lens
# of the Python at hand (TensorRT's own wheels ship no headers), and last, if DCN_DEPLOY_FETCH_HEADERS is on, in a cache
# folder into which that package's wheel is unpacked.
#
# They include the CUDA runtime's headers, which come from the toolkit of nvcc or from CUDA_HOME.
#
# Sets TensorRTHeaders_FOUND, TensorRTHeaders_INCLUDE_DIR, TensorRTHeaders_VERSION and, if not found,
# TensorRTHeaders_REASON; makes the target TensorRT::Headers.

set(TensorRTHeaders_MINIMUM 10.1)
set(_tried "")

# Sets TensorRTHeaders_INCLUDE_DIR and _VERSION if a folder holds new enough headers.
function(_tensorrt_headers_try description)
  find_path(_include_dir NvInfer.h ${ARGN} PATH_SUFFIXES include NO_CACHE)
  if(NOT _include_dir)
    set(_tried "${_tried}${description}: no NvInfer.h; " PARENT_SCOPE)
    return()
  endif()
  set(_version "")
  foreach(_part MAJOR MINOR)
    # The numbers are under either name, depending on the version.
    file(STRINGS "${_include_dir}/NvInferVersion.h" _line
      REGEX "^#define (NV_TENSORRT_${_part}|TRT_${_part}_ENTERPRISE) [0-9]+" LIMIT_COUNT 1)
    string(REGEX MATCH "[0-9]+" _number "${_line}")
    list(APPEND _version "${_number}")
  endforeach()
  list(JOIN _version "." _version)
  if(NOT _version MATCHES "^[0-9]+\\.[0-9]+$" OR _version VERSION_LESS TensorRTHeaders_MINIMUM)
    set(_tried "${_tried}${description}: version '${_version}' in ${_include_dir}, expected ${TensorRTHeaders_MINIMUM} or later; " PARENT_SCOPE)
    return()
  endif()
  string(REGEX REPLACE "/$" "" _include_dir "${_include_dir}")
  set(TensorRTHeaders_INCLUDE_DIR "${_include_dir}" PARENT_SCOPE)
  set(TensorRTHeaders_VERSION "${_version}" PARENT_SCOPE)
endfunction()

# Sets _python to the interpreter at hand: the one that the package is built for, the checkout's, or the system's.
function(_tensorrt_headers_python)
  set(_python "${Python_EXECUTABLE}")
  if(NOT _python AND EXISTS "${PROJECT_SOURCE_DIR}/.venv/bin/python")
    set(_python "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  endif()
  if(NOT _python)
    find_package(Python COMPONENTS Interpreter QUIET)
    set(_python "${Python_EXECUTABLE}")
  endif()
  set(_python "${_python}" PARENT_SCOPE)
endfunction()

set(TensorRTHeaders_INCLUDE_DIR "")
if(NOT TENSORRT_ROOT AND DEFINED ENV{TENSORRT_ROOT})
  set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}")
endif()
if(TENSORRT_ROOT)
  _tensorrt_headers_try("TENSORRT_ROOT '${TENSORRT_ROOT}'" PATHS "${TENSORRT_ROOT}" NO_DEFAULT_PATH)
endif()
if(NOT TensorRTHeaders_INCLUDE_DIR)
  _tensorrt_headers_try("system")
endif()
if(NOT TensorRTHeaders_INCLUDE_DIR)
  _tensorrt_headers_python()
  if(_python)
    # Asks where the package is without importing it.
    execute_process(
      COMMAND "${CMAKE_COMMAND}" -E env --unset=PYTHONPATH "${_python}" -c
              "import importlib.util as u; s = u.find_spec('kernel_lens'); print(s.submodule_search_locations[0] if s else '')"
      OUTPUT_VARIABLE _package ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(_package)
      _tensorrt_headers_try("package kernel-lens" PATHS "${_package}/include/tensorrt" NO_DEFAULT_PATH)
    else()
      string(APPEND _tried "package kernel-lens: not installed for ${_python}; ")
    endif()
  else()
    string(APPEND _tried "package kernel-lens: no Python found; ")
  endif()
endif()
if(NOT TensorRTHeaders_INCLUDE_DIR)
  if(NOT DCN_DEPLOY_FETCH_HEADERS)
    string(APPEND _tried "wheel of kernel-lens: DCN_DEPLOY_FETCH_HEADERS is off; ")
  elseif(_python)
    include(FetchPythonWheel)
    fetch_python_wheel("${_python}" kernel_lens-2.0.1-py3-none-any.whl
      07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0 _fetched _reason)
    if(_fetched)
      _tensorrt_headers_try("wheel of kernel-lens" PATHS "${_fetched}/kernel_lens/include/tensorrt" NO_DEFAULT_PATH)
    else()
      string(APPEND _tried "wheel of kernel-lens: ${_reason}; ")
    endif()
  endif()
endif()

unset(_cuda_include_dir)
if(TensorRTHeaders_INCLUDE_DIR)
  set(_cuda_hints ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  unset(_nvcc)
  find_program(_nvcc nvcc NO_CACHE)
  if(_nvcc)
    # nvcc may be a link into the toolkit, or a script of the toolkit's own that says where it is.
    file(REAL_PATH "${_nvcc}" _nvcc)
    cmake_path(GET _nvcc PARENT_PATH _bin)
    list(APPEND _cuda_hints "${_bin}/../include")
  endif()
  find_path(_cuda_include_dir cuda_runtime_api.h NO_CACHE
    HINTS ${_cuda_hints} PATHS "$ENV{CUDA_HOME}/include" "$ENV{CUDA_PATH}/include" /usr/local/cuda/include)
  if(NOT _cuda_include_dir)
    string(APPEND _tried "cuda_runtime_api.h, which NvInfer.h includes: neither beside nvcc nor under CUDA_HOME; ")
  endif()
endif()

if(TensorRTHeaders_INCLUDE_DIR AND _cuda_include_dir)
  set(TensorRTHeaders_FOUND TRUE)
  if(NOT TARGET TensorRT::Headers)
    # Imported, so that what the compiler would say of these headers themselves is not said.
    add_library(TensorRT::Headers INTERFACE IMPORTED)
    set_target_properties(TensorRT::Headers PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${TensorRTHeaders_INCLUDE_DIR};${_cuda_include_dir}")
  endif()
else()
  set(TensorRTHeaders_FOUND FALSE)
  string(REGEX REPLACE "; $" "" TensorRTHeaders_REASON "${_tried}")
endif()
