// Fragments of the matrix instructions, register by register, and ldmatrix.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/cuda/device.cuh"
#include "core/half.h"
#include "host_device_test.h"
#include "random_tensors.h"

namespace dcn_deploy {
namespace cuda {
namespace {

using host::MatrixFormat;

class HostMatrix : public HostDeviceTest, public ::testing::WithParamInterface<MatrixFormat> {};

// Where the PTX ISA's figures put an element, from the element's side: the emulation goes from the
// register's.
struct Place {
  int lane, word, part;
};

// Elements of a register.
int parts_of(MatrixFormat format) {
  return format == MatrixFormat::kTf32 ? 1 : format == MatrixFormat::kInt8 ? 4 : 2;
}

Place place_of_a(int parts, int row, int k) {
  if (parts == 1) return {row % 8 * 4 + k % 4, row / 8 + k / 4 * 2, 0};
  if (parts == 4) return {row % 8 * 4 + k % 16 / 4, row / 8 + k / 16 * 2, k % 4};
  return {row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2};
}
Place place_of_b(int parts, int k, int column) {
  if (parts == 1) return {column * 4 + k % 4, k / 4, 0};
  if (parts == 4) return {column * 4 + k % 16 / 4, k / 16, k % 4};
  return {column * 4 + k % 8 / 2, k / 8, k % 2};
}
Place place_of_d(int row, int column) {
  return {row % 8 * 4 + column / 2, row / 8 * 2 + column % 2, 0};
}

std::uint32_t bits_of(MatrixFormat format, float value) {
  if (format == MatrixFormat::kTf32) return float_bits(value);
  if (format == MatrixFormat::kInt8) {
    return static_cast<std::uint8_t>(static_cast<std::int8_t>(value));
  }
  return format == MatrixFormat::kFloat16 ? float_to_float16(value) : float_to_bfloat16(value);
}

struct Fragments {
  std::uint32_t a[32][4] = {};
  std::uint32_t b[32][2] = {};
  // Bits of float32, or int32 for int8.
  std::uint32_t d[32][4] = {};
};

__global__ void multiply(MatrixFormat format, Fragments* fragments) {
  const unsigned lane = threadIdx.x;
  if (format == MatrixFormat::kInt8) {
    std::int32_t sums[4];
    std::memcpy(sums, fragments->d[lane], sizeof(sums));
    mma_s8_16832(sums, fragments->a[lane], fragments->b[lane]);
    std::memcpy(fragments->d[lane], sums, sizeof(sums));
    return;
  }
  float d[4];
  std::memcpy(d, fragments->d[lane], sizeof(d));
  if (format == MatrixFormat::kFloat16) mma_f16_16816(d, fragments->a[lane], fragments->b[lane]);
  if (format == MatrixFormat::kBFloat16) mma_bf16_16816(d, fragments->a[lane], fragments->b[lane]);
  if (format == MatrixFormat::kTf32) mma_tf32_1688(d, fragments->a[lane], fragments->b[lane]);
  std::memcpy(fragments->d[lane], d, sizeof(d));
}

class Product {
 public:
  explicit Product(MatrixFormat format)
      : format_(format), parts_(parts_of(format)), depth_(8 * parts_) {}

  int depth() const { return depth_; }
  void set_a(int row, int k, float value) { put(place_of_a(parts_, row, k), value, true); }
  void set_b(int k, int column, float value) { put(place_of_b(parts_, k, column), value, false); }
  void set_d(int row, int column, float value) {
    const Place at = place_of_d(row, column);
    fragments_.d[at.lane][at.word] =
        format_ == MatrixFormat::kInt8
            ? static_cast<std::uint32_t>(static_cast<std::int32_t>(value))
            : float_bits(value);
  }
  float d(int row, int column) const {
    const Place at = place_of_d(row, column);
    const std::uint32_t bits = fragments_.d[at.lane][at.word];
    return format_ == MatrixFormat::kInt8 ? static_cast<float>(static_cast<std::int32_t>(bits))
                                          : float_from_bits(bits);
  }
  Fragments& fragments() { return fragments_; }
  void run() {
    ASSERT_TRUE(launch(&multiply, dim3(1), dim3(32), 0, nullptr, format_, &fragments_).ok());
  }

 private:
  void put(const Place& at, float value, bool in_a) {
    std::uint32_t& word = in_a ? fragments_.a[at.lane][at.word] : fragments_.b[at.lane][at.word];
    word |= bits_of(format_, value) << (32 / parts_ * at.part);
  }

  MatrixFormat format_;
  int parts_;
  int depth_;
  Fragments fragments_;
};

// Small whole numbers: every format holds them and every sum exactly.
TEST_P(HostMatrix, IsAPlainMatrixProduct) {
  std::mt19937_64 random(testing::seed());
  std::uniform_int_distribution<int> small(-8, 8);
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    Product product(GetParam());
    const int depth = product.depth();
    int a[16][32], b[32][8], d[16][8];
    for (int i = 0; i < 16; ++i) {
      for (int k = 0; k < depth; ++k) {
        a[i][k] = small(random);
        product.set_a(i, k, static_cast<float>(a[i][k]));
      }
      for (int j = 0; j < 8; ++j) {
        d[i][j] = small(random);
        product.set_d(i, j, static_cast<float>(d[i][j]));
      }
    }
    for (int k = 0; k < depth; ++k) {
      for (int j = 0; j < 8; ++j) {
        b[k][j] = small(random);
        product.set_b(k, j, static_cast<float>(b[k][j]));
      }
    }
    product.run();
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        int sum = d[i][j];
        for (int k = 0; k < depth; ++k) sum += a[i][k] * b[k][j];
        ASSERT_EQ(product.d(i, j), static_cast<float>(sum)) << i << ", " << j;
      }
    }
  }
}

// Each part of each register of each lane of A, alone: it reaches one row and one k.
TEST_P(HostMatrix, EveryRegisterIsInItsPlace) {
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < Product(GetParam()).depth(); ++k) {
      Product product(GetParam());
      product.set_a(row, k, 1);
      // Which k it was can be read off the columns.
      for (int i = 0; i < product.depth(); ++i) {
        for (int j = 0; j < 8; ++j) product.set_b(i, j, static_cast<float>(8 * i + j - 128));
      }
      product.run();
      for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 8; ++j) {
          ASSERT_EQ(product.d(i, j), i == row ? static_cast<float>(8 * k + j - 128) : 0.0f);
        }
      }
    }
  }
}

// The figures, spelled out for a few lanes: the two formulas above could be wrong alike.
TEST(HostMatrixFigures, LanesOfTheManual) {
  const auto same = [](const Place& a, const Place& b) {
    return a.lane == b.lane && a.word == b.word && a.part == b.part;
  };
  // m16n8k16, A: lane 0 has (0, 0..1), (8, 0..1), (0, 8..9), (8, 8..9); lane 31 the last of each.
  EXPECT_TRUE(same(place_of_a(2, 0, 1), {0, 0, 1}));
  EXPECT_TRUE(same(place_of_a(2, 8, 0), {0, 1, 0}));
  EXPECT_TRUE(same(place_of_a(2, 0, 8), {0, 2, 0}));
  EXPECT_TRUE(same(place_of_a(2, 8, 9), {0, 3, 1}));
  EXPECT_TRUE(same(place_of_a(2, 15, 15), {31, 3, 1}));
  EXPECT_TRUE(same(place_of_a(2, 1, 2), {5, 0, 0}));
  // B: lane 0 has rows 0, 1, 8, 9 of column 0; lane 4 is the next column.
  EXPECT_TRUE(same(place_of_b(2, 1, 0), {0, 0, 1}));
  EXPECT_TRUE(same(place_of_b(2, 8, 0), {0, 1, 0}));
  EXPECT_TRUE(same(place_of_b(2, 2, 1), {5, 0, 0}));
  EXPECT_TRUE(same(place_of_b(2, 15, 7), {31, 1, 1}));
  // m16n8k8 in TF32, A: lane 0 has (0, 0), (8, 0), (0, 4), (8, 4); B: rows 0 and 4 of column 0.
  EXPECT_TRUE(same(place_of_a(1, 8, 0), {0, 1, 0}));
  EXPECT_TRUE(same(place_of_a(1, 0, 4), {0, 2, 0}));
  EXPECT_TRUE(same(place_of_a(1, 15, 7), {31, 3, 0}));
  EXPECT_TRUE(same(place_of_b(1, 4, 0), {0, 1, 0}));
  EXPECT_TRUE(same(place_of_b(1, 1, 1), {5, 0, 0}));
  // m16n8k32 of bytes, A: lane 0 has (0, 0..3), (8, 0..3), (0, 16..19), (8, 16..19); B: rows 0..3
  // and 16..19 of column 0.
  EXPECT_TRUE(same(place_of_a(4, 8, 3), {0, 1, 3}));
  EXPECT_TRUE(same(place_of_a(4, 0, 16), {0, 2, 0}));
  EXPECT_TRUE(same(place_of_a(4, 1, 4), {5, 0, 0}));
  EXPECT_TRUE(same(place_of_a(4, 15, 31), {31, 3, 3}));
  EXPECT_TRUE(same(place_of_b(4, 17, 0), {0, 1, 1}));
  EXPECT_TRUE(same(place_of_b(4, 4, 1), {5, 0, 0}));
  EXPECT_TRUE(same(place_of_b(4, 31, 7), {31, 1, 3}));
  // D: lane 0 has (0, 0..1) and (8, 0..1).
  EXPECT_TRUE(same(place_of_d(0, 1), {0, 1, 0}));
  EXPECT_TRUE(same(place_of_d(8, 0), {0, 2, 0}));
  EXPECT_TRUE(same(place_of_d(15, 7), {31, 3, 0}));
}

TEST_P(HostMatrix, NanAndInfinityStayInTheirRowAndColumn) {
  if (GetParam() == MatrixFormat::kInt8) GTEST_SKIP() << "int8 has neither";
  Product product(GetParam());
  product.set_a(3, 5, std::numeric_limits<float>::quiet_NaN());
  product.set_b(2, 6, std::numeric_limits<float>::infinity());
  product.set_a(9, 2, -1);
  product.run();
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      if (i == 9 && j == 6) {
        EXPECT_EQ(product.d(i, j), -std::numeric_limits<float>::infinity());
      } else {
        // 0 · infinity is NaN, too.
        EXPECT_EQ(std::isnan(product.d(i, j)), i == 3 || j == 6) << i << ", " << j;
      }
    }
  }
}

std::string format_name(const ::testing::TestParamInfo<MatrixFormat>& tested) {
  constexpr const char* kNames[] = {"Float16", "BFloat16", "Tf32", "Int8"};
  return kNames[static_cast<int>(tested.param)];
}

INSTANTIATE_TEST_SUITE_P(Formats, HostMatrix,
                         ::testing::Values(MatrixFormat::kFloat16, MatrixFormat::kBFloat16,
                                           MatrixFormat::kTf32, MatrixFormat::kInt8),
                         format_name);

class HostMatrixDetails : public HostDeviceTest {};

TEST_F(HostMatrixDetails, Tf32LooksAtNineteenBits) {
  Product product(MatrixFormat::kTf32);
  const float value = float_from_bits(float_bits(1.0f) | 0x1fffu);
  product.set_a(0, 0, value);
  product.set_b(0, 0, value);
  product.run();
  EXPECT_EQ(product.d(0, 0), 1.0f);
}

TEST_F(HostMatrixDetails, SumsOfInt8WrapAround) {
  Product product(MatrixFormat::kInt8);
  product.set_d(0, 0, 2147483520.0f);  // 2^31 - 128
  product.set_a(0, 0, 127);
  product.set_b(0, 0, 127);
  product.run();
  EXPECT_EQ(product.d(0, 0), static_cast<float>(-2147483648.0 + 127 * 127 - 128));
}

TEST_F(HostMatrixDetails, SumsAreRoundedTowardsZero) {
  for (const float sign : {1.0f, -1.0f}) {
    Product product(MatrixFormat::kFloat16);
    product.set_d(0, 0, sign);
    product.set_a(0, 0, sign * 0x1.8p-13f);
    product.set_b(0, 0, 0x1p-11f);  // 0.75 of a step of the sum
    product.run();
    EXPECT_EQ(product.d(0, 0), sign);
  }
}

// 32 rows of 16 bytes, `stride` bytes apart; row r of matrix m is row order[8·m + r].
__global__ void load(const int* order, std::uint32_t* out, int stride) {
  DCN_DEPLOY_DYNAMIC_SHARED(shared);
  const int lane = static_cast<int>(threadIdx.x);
  for (std::uint32_t i = 0; i < 4; ++i) {
    shared_store(reinterpret_cast<std::uint32_t*>(shared + lane * stride) + i,
                 static_cast<std::uint32_t>(100 * lane) + i);
  }
  warp_barrier();
  std::uint32_t registers[4];
  load_matrix_x4(registers, shared + order[lane] * stride);
  for (int i = 0; i < 4; ++i) out[4 * lane + i] = registers[i];
}

TEST_F(HostMatrixDetails, LoadMatrixGivesEachLaneItsWords) {
  std::vector<int> order(32);
  for (int i = 0; i < 32; ++i) order[static_cast<std::size_t>(i)] = (7 * i + 3) % 32;
  for (const host::Settings& settings : all_orders()) {
    host::configure(settings);
    for (const int stride : {16, 48}) {
      std::vector<std::uint32_t> out(128);
      ASSERT_TRUE(launch(&load, dim3(1), dim3(32), static_cast<std::size_t>(32 * stride), nullptr,
                         order.data(), out.data(), stride)
                      .ok());
      for (std::size_t lane = 0; lane < 32; ++lane) {
        for (std::size_t matrix = 0; matrix < 4; ++matrix) {
          const int row = order[8 * matrix + lane / 4];
          ASSERT_EQ(out[4 * lane + matrix], static_cast<std::uint32_t>(100 * row) + lane % 4);
        }
      }
    }
  }
}

TEST_F(HostMatrixDetails, LoadMatrixWantsAlignedRows) {
  std::vector<int> order(32, 0);
  order[5] = 1;
  std::vector<std::uint32_t> out(128);
  EXPECT_FALSE(
      launch(&load, dim3(1), dim3(32), std::size_t{32 * 24}, nullptr, order.data(), out.data(), 24)
          .ok());
  EXPECT_TRUE(found(host::Violation::kMisaligned, "expected rows aligned to 16 bytes"));
}

}  // namespace
}  // namespace cuda
}  // namespace dcn_deploy
