#include "core/shape_check.h"

#include <cinttypes>
#include <cstdio>

namespace dcn_deploy {
namespace shape_check {

bool multiply(std::int64_t a, std::int64_t b, std::int64_t* product) {
  return !__builtin_mul_overflow(a, b, product);
}

bool add(std::int64_t a, std::int64_t b, std::int64_t* sum) {
  return !__builtin_add_overflow(a, b, sum);
}

std::int64_t known_of(std::int64_t first, std::int64_t second) {
  return first != kUnknown ? first : second;
}

Status at_least(const char* what, std::int64_t value, std::int64_t minimum) {
  if (value >= minimum) return {};
  return make_status(StatusCode::kInvalidArgument,
                     "%s: expected at least %" PRId64 ", got %" PRId64, what, minimum, value);
}

Status check_rank(const char* name, const char* layout, const ShapeView& shape, std::int64_t rank,
                  std::int64_t min_dim_of_first_axis) {
  if (!shape.present()) {
    return make_status(StatusCode::kInvalidArgument, "input %s: expected a tensor %s, got none",
                       name, layout);
  }
  if (!shape.known_rank()) return {};
  if (shape.rank != rank) {
    return make_status(StatusCode::kInvalidArgument,
                       "input %s: expected rank %" PRId64 " %s, got rank %" PRId64, name, rank,
                       layout, shape.rank);
  }
  for (std::int64_t axis = 0; axis < rank; ++axis) {
    const std::int64_t size = shape.dim(axis);
    const std::int64_t minimum = axis == 0 ? min_dim_of_first_axis : 1;
    if (size != kUnknown && size < minimum) {
      return make_status(StatusCode::kInvalidArgument,
                         "input %s %s: expected at least %" PRId64 " along axis %" PRId64
                         ", got %" PRId64,
                         name, layout, minimum, axis, size);
    }
  }
  return {};
}

Status check_dim(const char* input, const char* axis, std::int64_t expected, std::int64_t actual,
                 const char* because) {
  if (expected == kUnknown || actual == kUnknown || expected == actual) return {};
  return make_status(StatusCode::kInvalidArgument,
                     "input %s, %s: expected %" PRId64 " (%s), got %" PRId64, input, axis, expected,
                     because, actual);
}

Status check_count(const char* name, std::initializer_list<std::int64_t> dims) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) {
    // Empty tensors are indexed too: an empty batch must not hide an overflow.
    const std::int64_t factor = dim == kUnknown || dim == 0 ? 1 : dim;
    // The factor 4 is the largest element size in bytes.
    std::int64_t bytes;
    if (multiply(count, factor, &count) && multiply(count, 4, &bytes)) continue;
    char shape[128] = {0};
    std::size_t length = 0;
    for (const std::int64_t size : dims) {
      if (length >= sizeof(shape)) break;
      const int written = std::snprintf(shape + length, sizeof(shape) - length, "%s%" PRId64,
                                        length == 0 ? "" : ", ", size);
      length += written > 0 ? static_cast<std::size_t>(written) : 0;
    }
    return make_status(StatusCode::kTooLarge,
                       "%s: expected a size in bytes that fits in 64 bits, got the shape [%s]",
                       name, shape);
  }
  return {};
}

Status check_plane(std::int64_t height, std::int64_t width) {
  std::int64_t pixels;
  if (height == kUnknown || width == kUnknown ||
      (multiply(height, width, &pixels) && pixels <= kMaxPlane)) {
    return {};
  }
  return make_status(StatusCode::kTooLarge,
                     "input X: expected at most 2^31 - 1 pixels in a channel, got %" PRId64
                     "x%" PRId64,
                     height, width);
}

Status check_known(std::initializer_list<NamedShape> inputs) {
  for (const NamedShape& input : inputs) {
    if (!input.shape.present()) continue;
    bool known = input.shape.known_rank();
    for (std::int64_t axis = 0; known && axis < input.shape.rank; ++axis) {
      known = input.shape.dim(axis) >= 0;
    }
    if (!known) {
      return make_status(StatusCode::kInvalidArgument,
                         "input %s: expected a shape known in full, got one with unknown parts",
                         input.name);
    }
  }
  return {};
}

}  // namespace shape_check
}  // namespace dcn_deploy
