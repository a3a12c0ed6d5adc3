# Finds the headers of ONNX Runtime's C API. The library itself is not needed: a custom-op library gets the API from
# the runtime that loads it.
#
# Looks in ONNXRUNTIME_ROOT (variable of CMake or of the environment), then in the system, then, if
# DCN_DEPLOY_FETCH_HEADERS is on, in a cache folder into which Debian's libonnxruntime-dev is unpacked.
#
# Sets OnnxRuntimeHeaders_FOUND, OnnxRuntimeHeaders_INCLUDE_DIR, OnnxRuntimeHeaders_VERSION (of the API: 21 means
# ONNX Runtime 1.21) and, if not found, OnnxRuntimeHeaders_REASON; makes the target OnnxRuntime::Headers.

set(OnnxRuntimeHeaders_MINIMUM 21)
set(_suffixes include include/onnxruntime include/onnxruntime/core/session onnxruntime onnxruntime/core/session)
set(_tried "")

# Sets OnnxRuntimeHeaders_INCLUDE_DIR and _VERSION if a folder holds new enough headers.
function(_onnxruntime_headers_try description)
  find_path(_include_dir onnxruntime_c_api.h ${ARGN} PATH_SUFFIXES ${_suffixes} NO_CACHE)
  if(NOT _include_dir)
    set(_tried "${_tried}${description}: no onnxruntime_c_api.h; " PARENT_SCOPE)
    return()
  endif()
  file(STRINGS "${_include_dir}/onnxruntime_c_api.h" _line REGEX "^#define ORT_API_VERSION [0-9]+" LIMIT_COUNT 1)
  string(REGEX REPLACE "[^0-9]" "" _version "${_line}")
  if(NOT _version OR _version LESS OnnxRuntimeHeaders_MINIMUM)
    set(_tried "${_tried}${description}: API version '${_version}' in ${_include_dir}, expected ${OnnxRuntimeHeaders_MINIMUM} or later; " PARENT_SCOPE)
    return()
  endif()
  string(REGEX REPLACE "/$" "" _include_dir "${_include_dir}")
  set(OnnxRuntimeHeaders_INCLUDE_DIR "${_include_dir}" PARENT_SCOPE)
  set(OnnxRuntimeHeaders_VERSION "${_version}" PARENT_SCOPE)
endfunction()

set(OnnxRuntimeHeaders_INCLUDE_DIR "")
if(NOT ONNXRUNTIME_ROOT AND DEFINED ENV{ONNXRUNTIME_ROOT})
  set(ONNXRUNTIME_ROOT "$ENV{ONNXRUNTIME_ROOT}")
endif()
if(ONNXRUNTIME_ROOT)
  _onnxruntime_headers_try("ONNXRUNTIME_ROOT '${ONNXRUNTIME_ROOT}'"
    PATHS "${ONNXRUNTIME_ROOT}" "${ONNXRUNTIME_ROOT}/usr" NO_DEFAULT_PATH)
endif()
if(NOT OnnxRuntimeHeaders_INCLUDE_DIR)
  _onnxruntime_headers_try("system")
endif()
if(NOT OnnxRuntimeHeaders_INCLUDE_DIR)
  if(DCN_DEPLOY_FETCH_HEADERS)
    include(FetchDebianPackage)
    fetch_debian_package(libonnxruntime-dev trixie _fetched _reason)
    if(_fetched)
      _onnxruntime_headers_try("Debian package" PATHS "${_fetched}/usr" NO_DEFAULT_PATH)
    else()
      string(APPEND _tried "Debian package: ${_reason}; ")
    endif()
  else()
    string(APPEND _tried "Debian package: DCN_DEPLOY_FETCH_HEADERS is off; ")
  endif()
endif()

if(OnnxRuntimeHeaders_INCLUDE_DIR)
  set(OnnxRuntimeHeaders_FOUND TRUE)
  if(NOT TARGET OnnxRuntime::Headers)
    add_library(OnnxRuntime::Headers INTERFACE IMPORTED)
    set_target_properties(OnnxRuntime::Headers PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${OnnxRuntimeHeaders_INCLUDE_DIR}")
  endif()
else()
  set(OnnxRuntimeHeaders_FOUND FALSE)
  string(REGEX REPLACE "; $" "" OnnxRuntimeHeaders_REASON "${_tried}")
endif()
