// Prints the version of each library that it is given.
#include <cstdio>
#include <exception>

#include "dcn_deploy/plugins.h"

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    try {
      std::printf("%s\n", dcn_deploy::library_version(argv[i]).c_str());
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 1;
    }
  }
  return 0;
}
