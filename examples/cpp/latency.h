// Times of many runs and what is said of them.
#ifndef DCN_DEPLOY_EXAMPLES_LATENCY_H_
#define DCN_DEPLOY_EXAMPLES_LATENCY_H_

#include <string>
#include <vector>

namespace examples {

// Prints minimum, mean and percentiles of times in milliseconds, one line. `times` must not be
// empty.
void print_latency(const std::string& what, std::vector<double> times);

}  // namespace examples

#endif  // DCN_DEPLOY_EXAMPLES_LATENCY_H_
