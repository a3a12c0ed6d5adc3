include(CacheFolder)

# fetch_python_wheel(PYTHON WHEEL SHA256 RESULT REASON)
#
# Unpacks one pure-Python wheel into the user's cache folder, unless it is there already, and sets RESULT to the folder,
# or to "" and REASON to a sentence. WHEEL is its file name, which says project and version; PYTHON an interpreter with
# pip, which downloads it from wherever that pip is configured to. Nothing is installed.
function(fetch_python_wheel python wheel sha256 result reason)
  set(${result} "" PARENT_SCOPE)
  dcn_deploy_cache_folder(cache why)
  if(NOT cache)
    set(${reason} "${why}" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCH "^([^-]+)-([^-]+)-" parts "${wheel}")
  set(project "${CMAKE_MATCH_1}")
  set(version "${CMAKE_MATCH_2}")
  set(folder "${cache}/${project}-${version}")
  set(stamp "${folder}/.unpacked-${project}-${version}")
  # Two configure runs at a time must not unpack into one folder at a time.
  file(LOCK "${folder}.lock" GUARD FUNCTION TIMEOUT 300 RESULT_VARIABLE locked)
  if(EXISTS "${stamp}")
    set(${result} "${folder}" PARENT_SCOPE)
    return()
  endif()
  message(STATUS "Fetching ${project} ${version} into ${folder}")
  set(download "${folder}.download")
  file(REMOVE_RECURSE "${download}")
  # pip builds a package with PYTHONPATH set such that the interpreter does not see its own packages, pip among them.
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -E env --unset=PYTHONPATH "${python}" -m pip download --quiet
            --disable-pip-version-check --no-deps --only-binary :all: --dest "${download}" "${project}==${version}"
    RESULT_VARIABLE status ERROR_VARIABLE errors OUTPUT_QUIET)
  if(NOT status EQUAL 0)
    string(STRIP "${errors}" errors)
    string(REPLACE "\n" " / " errors "${errors}")
    set(${reason} "could not fetch ${project} ${version} with pip of ${python}: ${errors}" PARENT_SCOPE)
  elseif(NOT EXISTS "${download}/${wheel}")
    set(${reason} "pip of ${python} fetched another file of ${project} ${version} than ${wheel}" PARENT_SCOPE)
  else()
    file(SHA256 "${download}/${wheel}" actual)
    if(actual STREQUAL "${sha256}")
      file(ARCHIVE_EXTRACT INPUT "${download}/${wheel}" DESTINATION "${folder}")
      file(TOUCH "${stamp}")
      set(${result} "${folder}" PARENT_SCOPE)
    else()
      set(${reason} "${wheel}: expected SHA-256 ${sha256}, got ${actual}" PARENT_SCOPE)
    endif()
  endif()
  file(REMOVE_RECURSE "${download}")
endfunction()
