#include "latency.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace examples {
namespace {

// The smallest time that at least this part of all times does not exceed.
double percentile(const std::vector<double>& sorted, double part) {
  const auto rank = static_cast<std::size_t>(std::ceil(part * static_cast<double>(sorted.size())));
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

}  // namespace

void print_latency(const std::string& what, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const double mean =
      std::accumulate(times.begin(), times.end(), 0.0) / static_cast<double>(times.size());
  std::printf("%-16s min %.4f ms  mean %.4f ms  p50 %.4f ms  p90 %.4f ms  p99 %.4f ms\n",
              what.c_str(), times.front(), mean, percentile(times, 0.5), percentile(times, 0.9),
              percentile(times, 0.99));
}

}  // namespace examples
