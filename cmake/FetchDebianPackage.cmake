include(CacheFolder)

# fetch_debian_package(PACKAGE SUITE RESULT REASON)
#
# Unpacks a Debian package into the user's cache folder, unless it is there already, and sets RESULT to the folder
# (which then holds usr/...), or to "" and REASON to a sentence. Nothing is installed.
function(fetch_debian_package package suite result reason)
  set(${result} "" PARENT_SCOPE)
  dcn_deploy_cache_folder(cache why)
  if(NOT cache)
    set(${reason} "${why}" PARENT_SCOPE)
    return()
  endif()
  set(folder "${cache}/${package}-${suite}")
  if(NOT EXISTS "${folder}/.unpacked-${package}-${suite}")
    message(STATUS "Fetching the headers of ${package} (${suite}) into ${folder}")
  endif()
  # Two configure runs at a time must not unpack into one folder at a time.
  file(LOCK "${cache}/${package}-${suite}.lock" GUARD FUNCTION TIMEOUT 300 RESULT_VARIABLE locked)
  execute_process(
    COMMAND sh "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/fetch_debian_package.sh" "${package}" "${suite}" "${folder}"
    RESULT_VARIABLE status ERROR_VARIABLE errors OUTPUT_QUIET)
  if(status EQUAL 0)
    set(${result} "${folder}" PARENT_SCOPE)
  else()
    string(STRIP "${errors}" errors)
    string(REPLACE "\n" " / " errors "${errors}")
    set(${reason} "could not fetch ${package} from Debian ${suite}: ${errors}" PARENT_SCOPE)
  endif()
endfunction()
