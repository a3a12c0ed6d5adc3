# debian_codename(RESULT): the name of the machine's Debian suite, "" where it has none.
function(debian_codename result)
  set(codename "")
  if(EXISTS /etc/os-release)
    file(STRINGS /etc/os-release codename REGEX "^VERSION_CODENAME=")
    string(REGEX REPLACE "^VERSION_CODENAME=\"?([a-z]*)\"?$" "\\1" codename "${codename}")
  endif()
  set(${result} "${codename}" PARENT_SCOPE)
endfunction()
