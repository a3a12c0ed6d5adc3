#include "tensor_data.h"

#include <cctype>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>

namespace examples {
namespace {

// Sign, an exponent for 0.5 to 1, and as many random bits as the type has in its significand.
template <typename Bits>
void fill(std::vector<char>& values, Bits half, int significand, int sign, std::mt19937& random) {
  const auto mask = static_cast<Bits>((Bits{1} << significand) - 1);
  for (std::size_t i = 0; i + sizeof(Bits) <= values.size(); i += sizeof(Bits)) {
    const auto drawn = static_cast<Bits>(random());
    const auto bits = static_cast<Bits>(half | (drawn & mask) | (drawn & (Bits{1} << sign)));
    std::memcpy(values.data() + i, &bits, sizeof(Bits));
  }
}

}  // namespace

std::size_t element_size(ElementType type) {
  switch (type) {
    case ElementType::kInt64:
      return 8;
    case ElementType::kFloat32:
    case ElementType::kInt32:
      return 4;
    case ElementType::kFloat16:
    case ElementType::kBfloat16:
      return 2;
    case ElementType::kInt8:
    case ElementType::kUint8:
    case ElementType::kBool:
      return 1;
  }
  throw std::logic_error("an element type without a size");
}

std::size_t TensorInfo::bytes() const {
  std::size_t count = 1;
  for (const int64_t size : shape) {
    if (size < 0) {
      throw std::runtime_error("'" + name + "': expected a shape without open sizes, got " +
                               shape_text(shape) +
                               ". Give the shapes of all dynamic inputs with --shape.");
    }
    count *= static_cast<std::size_t>(size);
  }
  return count * element_size(type);
}

std::vector<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  // A folder opens, too.
  if (!file || !std::filesystem::is_regular_file(path)) {
    throw std::runtime_error("expected a file that can be read, got '" + path + "'");
  }
  std::vector<char> content(static_cast<std::size_t>(file.tellg()));
  file.seekg(0);
  if (!file.read(content.data(), static_cast<std::streamsize>(content.size()))) {
    throw std::runtime_error("'" + path + "' cannot be read to its end");
  }
  return content;
}

std::vector<char> input_values(const Request& request, const TensorInfo& tensor) {
  const auto named = request.data.find(tensor.name);
  if (named != request.data.end()) {
    std::vector<char> values = read_file(named->second);
    if (values.size() != tensor.bytes()) {
      throw std::runtime_error("--data " + tensor.name + ": expected " +
                               std::to_string(tensor.bytes()) + " bytes (" +
                               shape_text(tensor.shape) + "), got " +
                               std::to_string(values.size()) + " in '" + named->second + "'");
    }
    return values;
  }
  std::vector<char> values(tensor.bytes());
  std::mt19937 random(20170317);
  switch (tensor.type) {
    case ElementType::kFloat32:
      fill<uint32_t>(values, 0x3f000000, 23, 31, random);
      break;
    case ElementType::kFloat16:
      fill<uint16_t>(values, 0x3800, 10, 15, random);
      break;
    case ElementType::kBfloat16:
      fill<uint16_t>(values, 0x3f00, 7, 15, random);
      break;
    default:
      break;
  }
  return values;
}

void save_output(const std::string& folder, const TensorInfo& tensor, const char* values) {
  std::string name = tensor.name;
  for (char& letter : name) {
    if (std::isalnum(static_cast<unsigned char>(letter)) == 0 && letter != '-' && letter != '.') {
      letter = '_';
    }
  }
  const std::string path = folder + "/" + name + ".bin";
  std::ofstream file(path, std::ios::binary);
  if (!file.write(values, static_cast<std::streamsize>(tensor.bytes())) || !file.flush()) {
    throw std::runtime_error("--save: expected a folder that can be written to, got '" + folder +
                             "'");
  }
}

}  // namespace examples
