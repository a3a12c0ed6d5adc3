// What the operators' checks of shapes and attributes share. Unknown dims and ranks pass.

#ifndef DCN_DEPLOY_CORE_SHAPE_CHECK_H_
#define DCN_DEPLOY_CORE_SHAPE_CHECK_H_

#include <cstdint>
#include <initializer_list>

#include "core/status.h"

namespace dcn_deploy {

// A tensor's shape as far as it is known.
struct ShapeView {
  static constexpr std::int64_t kUnknownDim = -1;
  static constexpr std::int64_t kUnknownRank = -1;
  static constexpr std::int64_t kAbsent = -2;

  const std::int64_t* dims = nullptr;
  // The number of dims, kUnknownRank, or kAbsent for an optional input that is not there.
  std::int64_t rank = kUnknownRank;

  bool present() const { return rank != kAbsent; }
  bool known_rank() const { return rank >= 0; }
  // The size along an axis; kUnknownDim if it, or the rank, is not known.
  std::int64_t dim(std::int64_t axis) const {
    return axis >= 0 && axis < rank ? dims[axis] : kUnknownDim;
  }
};

// Pixels of one channel are indexed with 32 bits; channels and images with 64.
inline constexpr std::int64_t kMaxPlane = (std::int64_t{1} << 31) - 1;

namespace shape_check {

inline constexpr std::int64_t kUnknown = ShapeView::kUnknownDim;

// False on overflow.
bool multiply(std::int64_t a, std::int64_t b, std::int64_t* product);
bool add(std::int64_t a, std::int64_t b, std::int64_t* sum);

// The first value if it is known, else the second.
std::int64_t known_of(std::int64_t first, std::int64_t second);

Status at_least(const char* what, std::int64_t value, std::int64_t minimum);

// The rank, and every size at least 1, or `min_dim_of_first_axis` along the first axis. An input
// that is not there is refused.
Status check_rank(const char* name, const char* layout, const ShapeView& shape, std::int64_t rank,
                  std::int64_t min_dim_of_first_axis);

// One size of an input; `because` says where the expected one comes from.
Status check_dim(const char* input, const char* axis, std::int64_t expected, std::int64_t actual,
                 const char* because);

// The product of dims, each at least 0; an unknown one among them counts as 1.
Status check_count(const char* name, std::initializer_list<std::int64_t> dims);

// At most kMaxPlane pixels in a channel of X.
Status check_plane(std::int64_t height, std::int64_t width);

struct NamedShape {
  const char* name;
  const ShapeView& shape;
};

// Every size of every input that is there is known.
Status check_known(std::initializer_list<NamedShape> inputs);

}  // namespace shape_check
}  // namespace dcn_deploy

#endif  // DCN_DEPLOY_CORE_SHAPE_CHECK_H_
