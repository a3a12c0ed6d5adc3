// Values of tensors, as bytes.
#ifndef DCN_DEPLOY_EXAMPLES_TENSOR_DATA_H_
#define DCN_DEPLOY_EXAMPLES_TENSOR_DATA_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "command_line.h"

namespace examples {

enum class ElementType { kFloat32, kFloat16, kBfloat16, kInt8, kUint8, kInt32, kInt64, kBool };

std::size_t element_size(ElementType type);

// One tensor of a model: what it is called, and its shape once that is known.
struct TensorInfo {
  std::string name;
  ElementType type;
  std::vector<int64_t> shape;

  std::size_t bytes() const;
};

// Values of an input: those of the file that the request names, or else floating-point numbers of
// magnitude 0.5 to 1, the same in each call of the program, and zeros for integers. Throws
// std::runtime_error if the file does not hold exactly this tensor.
std::vector<char> input_values(const Request& request, const TensorInfo& tensor);

// The whole of a file. Throws std::runtime_error if it cannot be read.
std::vector<char> read_file(const std::string& path);

// Writes FOLDER/NAME.bin, with "_" for what is not fit for a file's name. Throws std::runtime_error
// if it cannot.
void save_output(const std::string& folder, const TensorInfo& tensor, const char* values);

}  // namespace examples

#endif  // DCN_DEPLOY_EXAMPLES_TENSOR_DATA_H_
