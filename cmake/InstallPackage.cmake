# dcn_deploy_install_package(TARGET...)
#
# Installs the plugin libraries, the header that names what is in them, and a CMake package that finds both:
# find_package(dcn_deploy). In a wheel the prefix is the Python package, and the layout below it the same.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

function(dcn_deploy_install_package)
  if(SKBUILD)
    set(prefix dcn_deploy/)
    set(libraries lib)
    set(headers include)
  else()
    set(prefix "")
    set(libraries "${CMAKE_INSTALL_LIBDIR}")
    set(headers "${CMAKE_INSTALL_INCLUDEDIR}")
  endif()
  set(package "${prefix}${libraries}/cmake/dcn_deploy")

  add_library(dcn_deploy_headers INTERFACE)
  set_target_properties(dcn_deploy_headers PROPERTIES EXPORT_NAME headers)
  target_include_directories(dcn_deploy_headers INTERFACE "$<INSTALL_INTERFACE:${prefix}${headers}>")
  target_compile_features(dcn_deploy_headers INTERFACE cxx_std_17)
  target_link_libraries(dcn_deploy_headers INTERFACE ${CMAKE_DL_LIBS})
  install(TARGETS dcn_deploy_headers EXPORT dcn_deploy_targets)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/plugins/include/dcn_deploy" DESTINATION "${prefix}${headers}"
    FILES_MATCHING PATTERN "*.h")

  set(DCN_DEPLOY_COMPONENTS "")
  foreach(target IN LISTS ARGN)
    if(TARGET ${target})
      string(REGEX REPLACE "^dcn_deploy_" "" component "${target}")
      list(APPEND DCN_DEPLOY_COMPONENTS "${component}")
      set_target_properties(${target} PROPERTIES EXPORT_NAME "${component}")
      install(TARGETS ${target} EXPORT dcn_deploy_targets LIBRARY DESTINATION "${prefix}${libraries}")
    endif()
  endforeach()

  install(EXPORT dcn_deploy_targets NAMESPACE dcn_deploy:: FILE dcn_deploy-targets.cmake DESTINATION "${package}")
  set(generated "${PROJECT_BINARY_DIR}/cmake-package")
  configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/dcn_deploy-config.cmake.in"
    "${generated}/dcn_deploy-config.cmake" INSTALL_DESTINATION "${package}"
    NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
  write_basic_package_version_file("${generated}/dcn_deploy-config-version.cmake"
    VERSION "${DCN_DEPLOY_VERSION}" COMPATIBILITY SameMinorVersion)
  install(FILES "${generated}/dcn_deploy-config.cmake" "${generated}/dcn_deploy-config-version.cmake"
    DESTINATION "${package}")
endfunction()
