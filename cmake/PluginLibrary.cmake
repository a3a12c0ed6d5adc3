# dcn_deploy_finish_plugin_library(TARGET EXPORTS)
#
# What every library that a runtime loads has in common: it exports what the version script EXPORTS names and nothing
# else, and needs nothing of the C++ library of the machine it runs on. InstallPackage.cmake installs them.
function(dcn_deploy_finish_plugin_library target exports)
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS "${exports}")
  target_link_options(${target} PRIVATE "LINKER:--version-script=${exports}" LINKER:--no-undefined)
  if(NOT DCN_DEPLOY_SANITIZE)
    # Unused parts of the C++ library go, and with them what they need of a recent glibc; libgcc stays shared for the
    # same reason.
    include(CheckLinkerFlag)
    check_linker_flag(CXX "-static-libstdc++" DCN_DEPLOY_STATIC_RUNTIME)
    if(DCN_DEPLOY_STATIC_RUNTIME)
      target_link_options(${target} PRIVATE -static-libstdc++ LINKER:--gc-sections)
    endif()
  endif()
endfunction()
