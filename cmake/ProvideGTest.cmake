# Makes the targets GTest::gtest and GTest::gtest_main: from the system, or else, if DCN_DEPLOY_FETCH_HEADERS is on, from
# Debian's libgtest-dev of the machine's own suite, unpacked into the user's cache folder. Fails if there is neither.

find_package(GTest QUIET)
if(GTest_FOUND)
  message(STATUS "GoogleTest: ${GTest_VERSION} of the system")
  return()
endif()
set(remedy "Install libgtest-dev, or point CMAKE_PREFIX_PATH to an installation of GoogleTest.")
if(NOT DCN_DEPLOY_FETCH_HEADERS)
  message(FATAL_ERROR "GoogleTest: not found, and DCN_DEPLOY_FETCH_HEADERS is off. ${remedy}")
endif()

include(DebianCodename)
debian_codename(codename)
if(NOT codename)
  message(FATAL_ERROR "GoogleTest: not found, and this is not a Debian machine to fetch it on. ${remedy}")
endif()
include(FetchDebianPackage)
fetch_debian_package(libgtest-dev "${codename}" folder reason)
if(NOT folder)
  message(FATAL_ERROR "GoogleTest: not found, and ${reason}. ${remedy}")
endif()

find_package(Threads REQUIRED)
foreach(name gtest gtest_main)
  find_library(library ${name} PATHS "${folder}/usr/lib" PATH_SUFFIXES "${CMAKE_LIBRARY_ARCHITECTURE}"
               NO_DEFAULT_PATH NO_CACHE REQUIRED)
  add_library(GTest::${name} STATIC IMPORTED)
  set_target_properties(GTest::${name} PROPERTIES
    IMPORTED_LOCATION "${library}"
    INTERFACE_INCLUDE_DIRECTORIES "${folder}/usr/include"
    INTERFACE_LINK_LIBRARIES Threads::Threads)
  unset(library)
endforeach()
set_property(TARGET GTest::gtest_main APPEND PROPERTY INTERFACE_LINK_LIBRARIES GTest::gtest)
message(STATUS "GoogleTest: libgtest-dev of ${codename} in ${folder}")
