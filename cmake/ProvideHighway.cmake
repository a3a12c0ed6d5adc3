# Makes the target Highway::Headers: Google Highway, of which headers are all that is needed. From HIGHWAY_ROOT (variable of
# CMake or of the environment), from the system, or else, if DCN_DEPLOY_FETCH_HEADERS is on, from Debian's libhwy-dev
# unpacked into the user's cache folder. Sets HIGHWAY_FOUND, and HIGHWAY_REASON if there is none.

set(_minimum 1.1)
set(_tried "")

# Sets _highway_include_dir and _version if a folder holds new enough headers.
function(_highway_try description)
  find_path(_found hwy/highway.h ${ARGN} PATH_SUFFIXES include NO_CACHE)
  if(NOT _found)
    set(_tried "${_tried}${description}: no hwy/highway.h; " PARENT_SCOPE)
    return()
  endif()
  file(STRINGS "${_found}/hwy/base.h" _lines REGEX "^#define HWY_(MAJOR|MINOR) [0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" _lines "${_lines}")
  string(REPLACE ";" "." _version "${_lines}")
  if(NOT _version OR _version VERSION_LESS _minimum)
    set(_tried "${_tried}${description}: version '${_version}' in ${_found}, expected ${_minimum} or later; " PARENT_SCOPE)
    return()
  endif()
  set(_highway_include_dir "${_found}" PARENT_SCOPE)
  set(_version "${_version}" PARENT_SCOPE)
endfunction()

set(_highway_include_dir "")
if(NOT HIGHWAY_ROOT AND DEFINED ENV{HIGHWAY_ROOT})
  set(HIGHWAY_ROOT "$ENV{HIGHWAY_ROOT}")
endif()
if(HIGHWAY_ROOT)
  _highway_try("HIGHWAY_ROOT '${HIGHWAY_ROOT}'" PATHS "${HIGHWAY_ROOT}" "${HIGHWAY_ROOT}/usr" NO_DEFAULT_PATH)
endif()
if(NOT _highway_include_dir)
  _highway_try("system")
endif()
if(NOT _highway_include_dir)
  if(DCN_DEPLOY_FETCH_HEADERS)
    include(FetchDebianPackage)
    # Debian 12 has 1.0.3.
    fetch_debian_package(libhwy-dev trixie _fetched _reason)
    if(_fetched)
      _highway_try("Debian package" PATHS "${_fetched}/usr" NO_DEFAULT_PATH)
    else()
      string(APPEND _tried "Debian package: ${_reason}; ")
    endif()
  else()
    string(APPEND _tried "Debian package: DCN_DEPLOY_FETCH_HEADERS is off; ")
  endif()
endif()
if(NOT _highway_include_dir)
  string(REGEX REPLACE "; $" "" _tried "${_tried}")
  set(HIGHWAY_FOUND FALSE)
  set(HIGHWAY_REASON
    "Headers of Google Highway (${_minimum} or later): ${_tried}. Set HIGHWAY_ROOT, or install libhwy-dev")
  return()
endif()

set(HIGHWAY_FOUND TRUE)
add_library(Highway::Headers INTERFACE IMPORTED)
set_target_properties(Highway::Headers PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${_highway_include_dir}"
  INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${_highway_include_dir}")
message(STATUS "Google Highway: ${_version} in ${_highway_include_dir}")
