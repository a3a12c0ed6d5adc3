#include "shared_library.h"

#include <dlfcn.h>

#include <stdexcept>
#include <utility>

namespace examples {

SharedLibrary::SharedLibrary(std::string name, std::string remedy)
    : name_(std::move(name)), remedy_(std::move(remedy)), handle_(dlopen(name_.c_str(), RTLD_NOW)) {
  if (handle_ == nullptr) {
    const char* const reason = dlerror();
    throw std::runtime_error("--runtime: expected a library that can be loaded, got " +
                             std::string(reason == nullptr ? name_.c_str() : reason) + ". " +
                             remedy_);
  }
}

void* SharedLibrary::address(const char* symbol) const {
  void* const found = dlsym(handle_, symbol);
  if (found == nullptr) {
    throw std::runtime_error("--runtime: expected a library with the function " +
                             std::string(symbol) + ", got " + name_ + ". " + remedy_);
  }
  return found;
}

}  // namespace examples
