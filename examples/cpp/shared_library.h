// A library that is loaded by name, so that a program needs no more than its headers to be
// compiled.
#ifndef DCN_DEPLOY_EXAMPLES_SHARED_LIBRARY_H_
#define DCN_DEPLOY_EXAMPLES_SHARED_LIBRARY_H_

#include <string>

namespace examples {

// Stays loaded until the process ends: what it has made may outlive this object.
class SharedLibrary {
 public:
  // `remedy` is a sentence for who does not have it. Throws std::runtime_error if it cannot be
  // loaded.
  SharedLibrary(std::string name, std::string remedy);

  // The function of this name. Throws std::runtime_error if there is none.
  template <typename Function>
  Function* function(const char* symbol) const {
    return reinterpret_cast<Function*>(address(symbol));
  }

 private:
  void* address(const char* symbol) const;

  std::string name_;
  std::string remedy_;
  void* handle_;
};

}  // namespace examples

#endif  // DCN_DEPLOY_EXAMPLES_SHARED_LIBRARY_H_
