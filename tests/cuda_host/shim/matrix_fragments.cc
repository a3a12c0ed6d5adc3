#include "matrix_fragments.h"

#include <cmath>
#include <vector>

#include "core/half.h"

namespace dcn_deploy {
namespace cuda {
namespace host {
namespace {

constexpr int kRows = 16;    // of A and D
constexpr int kColumns = 8;  // of B and D

// Half of the run would go into the portable conversion.
const std::vector<float>& float16_values() {
  static const std::vector<float> values = [] {
    std::vector<float> table(1 << 16);
    for (std::uint32_t bits = 0; bits < table.size(); ++bits) {
      table[bits] = float16_to_float_portable(static_cast<std::uint16_t>(bits));
    }
    return table;
  }();
  return values;
}

// `part` counts the elements of a word.
float element(MatrixFormat format, std::uint32_t word, int part) {
  if (format == MatrixFormat::kTf32) {
    // Sign, exponent and ten bits of mantissa: the unit does not look at the rest.
    return float_from_bits(word & 0xffffe000u);
  }
  if (format == MatrixFormat::kInt8) {
    return static_cast<float>(static_cast<std::int8_t>(word >> (8 * part)));
  }
  const auto bits = static_cast<std::uint16_t>(part == 0 ? word : word >> 16);
  return format == MatrixFormat::kFloat16 ? float16_values()[bits] : bfloat16_to_float(bits);
}

// `value` as a float32, rounded towards zero.
float truncated(double value) {
  const auto nearest = static_cast<float>(value);
  if (std::isfinite(nearest) && std::fabs(static_cast<double>(nearest)) > std::fabs(value)) {
    return std::nextafterf(nearest, 0.0f);
  }
  return nearest;
}

// kDepth columns of A; kPerWord elements in a register.
template <int kDepth, int kPerWord>
void multiply(MatrixFormat format, const MatrixOperands (&lanes)[32]) {
  double a[kRows][kDepth];
  double b[kDepth][kColumns];
  constexpr int kQuarter =
      kDepth / 2;  // columns of A in registers 0 and 1; 2 and 3 hold the others
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4;
    const int first = lane % 4 * kPerWord;
    for (int word = 0; word < 4; ++word) {
      for (int part = 0; part < kPerWord; ++part) {
        a[group + word % 2 * 8][first + part + word / 2 * kQuarter] =
            static_cast<double>(element(format, lanes[lane].a[word], part));
      }
    }
    for (int word = 0; word < 2; ++word) {
      for (int part = 0; part < kPerWord; ++part) {
        b[first + part + word * kQuarter][group] =
            static_cast<double>(element(format, lanes[lane].b[word], part));
      }
    }
  }
  double sums[kRows][kColumns] = {};
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < kColumns; ++column) {
        sums[row][column] += a[row][k] * b[k][column];
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const double sum = sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
      if (format == MatrixFormat::kInt8) {
        auto& d = static_cast<std::int32_t*>(lanes[lane].d)[i];
        d = static_cast<std::int32_t>(static_cast<std::uint32_t>(d) +
                                      static_cast<std::uint32_t>(static_cast<std::int32_t>(sum)));
      } else {
        auto& d = static_cast<float*>(lanes[lane].d)[i];
        d = truncated(static_cast<double>(d) + sum);
      }
    }
  }
}

}  // namespace

void multiply_fragments(MatrixFormat format, const MatrixOperands (&lanes)[32]) {
  if (format == MatrixFormat::kTf32) {
    multiply<8, 1>(format, lanes);
  } else if (format == MatrixFormat::kInt8) {
    multiply<32, 4>(format, lanes);
  } else {
    multiply<16, 2>(format, lanes);
  }
}

}  // namespace host
}  // namespace cuda
}  // namespace dcn_deploy
