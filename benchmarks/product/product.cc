// The inner product of the CPU's deformable convolution beside LIBXSMM's, on the same panel.
//
//   dcn_deploy_product avx2|avx512
//
// Prints one line a shape: output channels, depth, pixels, then the operations per second of ours,
// and of LIBXSMM's with the size of block that suits it best, and that size. Ends with 2 where the
// processor lacks the instructions, and with 1 if the two do not compute the same.

#include <libxsmm.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "core/cpu/aligned_buffer.h"
#include "core/cpu/deform_conv2d_kernels.h"
#include "core/cpu/kernels.h"

namespace {

using dcn_deploy::cpu::DeformConv2dKernels;
using dcn_deploy::cpu::kBlockVectors;
using dcn_deploy::cpu::kPanelStride;

// Strips that meet the same weights one after the other.
constexpr int kStrips = 8;

struct Problem {
  std::int64_t channels;
  std::int64_t depth;
  std::int64_t pixels;

  double operations() const {
    return 2.0 * static_cast<double>(channels * depth * pixels * kStrips);
  }
};

// The best of many short spells, each with the caches warm from the one before.
template <typename Work>
double operations_per_second(const Problem& problem, const Work& work) {
  constexpr int kSpells = 40;
  constexpr int kRepeats = 50;
  double best = 1e9;
  for (int spell = 0; spell < kSpells; ++spell) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kRepeats; ++i) work();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    best = std::min(best, taken.count() / kRepeats);
  }
  return problem.operations() / best;
}

struct Tensors {
  explicit Tensors(const Problem& problem)
      : panel(static_cast<std::size_t>(kPanelStride * problem.pixels)),
        weight(static_cast<std::size_t>(problem.channels * problem.depth)),
        sums(static_cast<std::size_t>(problem.channels * problem.pixels * kStrips)) {
    std::mt19937 random(20170317);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::generate(panel.begin(), panel.end(), [&] { return uniform(random); });
    std::generate(weight.begin(), weight.end(), [&] { return uniform(random); });
  }

  std::vector<float> panel;
  std::vector<float> weight;  // [depth][channel]
  std::vector<float> sums;    // [strip][pixel][channel]
};

using dcn_deploy::cpu::AlignedBuffer;

// Weights in blocks of `block` channels, each [depth][channel of the block].
AlignedBuffer in_blocks(const Problem& problem, const std::vector<float>& weight,
                        std::int64_t block) {
  AlignedBuffer blocks;
  if (!blocks.allocate(problem.channels * problem.depth)) throw std::bad_alloc();
  for (std::int64_t k = 0; k < problem.depth; ++k) {
    for (std::int64_t m = 0; m < problem.channels; ++m) {
      const std::int64_t at = m / block * block * problem.depth + k * block + m % block;
      blocks.data()[at] = weight[static_cast<std::size_t>(k * problem.channels + m)];
    }
  }
  return blocks;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return size > 0 && difference <= 1e-12 * size;
}

int compare(const DeformConv2dKernels& kernels, const Problem& problem) {
  Tensors tensors(problem);
  const AlignedBuffer ours = in_blocks(problem, tensors.weight, kBlockVectors * kernels.lanes);
  const auto our_product = [&] {
    for (int strip = 0; strip < kStrips; ++strip) {
      kernels.multiply(problem.pixels, problem.depth, tensors.panel.data(), ours.data(),
                       problem.channels, nullptr,
                       tensors.sums.data() + strip * problem.pixels * problem.channels,
                       problem.channels);
    }
  };
  our_product();
  const std::vector<float> expected = tensors.sums;
  const double our_rate = operations_per_second(problem, our_product);

  double best = 0;
  std::int64_t best_block = 0;
  for (std::int64_t block = 16; block <= problem.channels; block *= 2) {
    // Column by column as LIBXSMM sees it: a column is a pixel.
    const libxsmm_blasint rows = static_cast<libxsmm_blasint>(block);
    const libxsmm_blasint panel_stride = kPanelStride;
    const libxsmm_blasint sums_stride = static_cast<libxsmm_blasint>(problem.channels);
    const float one = 1;
    const int flags = LIBXSMM_GEMM_FLAG_NONE;
    const libxsmm_smmfunction product =
        libxsmm_smmdispatch(rows, static_cast<libxsmm_blasint>(problem.pixels),
                            static_cast<libxsmm_blasint>(problem.depth), &rows, &panel_stride,
                            &sums_stride, &one, &one, &flags, nullptr);
    if (product == nullptr) continue;
    const AlignedBuffer theirs = in_blocks(problem, tensors.weight, block);
    const auto their_product = [&] {
      for (int strip = 0; strip < kStrips; ++strip) {
        float* sums = tensors.sums.data() + strip * problem.pixels * problem.channels;
        for (std::int64_t channel = 0; channel < problem.channels; channel += block) {
          product(theirs.data() + channel * problem.depth, tensors.panel.data(), sums + channel);
        }
      }
    };
    std::fill(tensors.sums.begin(), tensors.sums.end(), 0.0f);
    their_product();
    if (!same(tensors.sums, expected)) {
      std::fprintf(stderr, "blocks of %lld: expected the same product from both\n",
                   static_cast<long long>(block));
      return 1;
    }
    const double rate = operations_per_second(problem, their_product);
    if (rate > best) {
      best = rate;
      best_block = block;
    }
  }
  std::printf("%lld %lld %lld %.6g %.6g %lld\n", static_cast<long long>(problem.channels),
              static_cast<long long>(problem.depth), static_cast<long long>(problem.pixels),
              our_rate, best, static_cast<long long>(best_block));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const char* name = count == 2 ? arguments[1] : "";
  if (std::strcmp(name, "avx2") != 0 && std::strcmp(name, "avx512") != 0) {
    std::fprintf(stderr, "usage: dcn_deploy_product avx2|avx512\n");
    return 2;
  }
  const dcn_deploy::cpu::Kernels* kernels = dcn_deploy::cpu::find_kernels(name);
  if (kernels == nullptr) {
    std::fprintf(stderr, "%s: this processor lacks the instructions\n", name);
    return 2;
  }
  libxsmm_init();
  libxsmm_set_target_arch(std::strcmp(name, "avx2") == 0 ? "hsw" : "skx");
  const std::int64_t pixels = kernels->deform_conv2d->strip;
  // Nine taps of 32 channels, as most layers have them, and of 16.
  for (const Problem& problem :
       {Problem{64, 288, pixels}, Problem{128, 288, pixels}, Problem{256, 288, pixels},
        Problem{512, 288, pixels}, Problem{256, 144, pixels}}) {
    if (compare(*kernels->deform_conv2d, problem) != 0) return 1;
  }
  return 0;
}
