// What the programs are asked for.
#ifndef DCN_DEPLOY_EXAMPLES_COMMAND_LINE_H_
#define DCN_DEPLOY_EXAMPLES_COMMAND_LINE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace examples {

// One option and what becomes of its value. Without a metavar it is a switch and gets "".
struct Option {
  std::string name;  // "--runs"
  std::string metavar;
  std::string help;
  std::function<void(const std::string& value)> set;
};

// What both programs are told.
struct Request {
  std::string model;
  std::string runtime;                                 // library of the runtime
  std::string plugin;                                  // library of dcn_deploy; none if empty
  std::map<std::string, std::vector<int64_t>> shapes;  // of inputs that are dynamic
  std::map<std::string, std::string> data;             // input -> file of raw values
  std::string save;                                    // folder for the outputs; none if empty
  int64_t warm_up = 10;
  int64_t runs = 100;
};

// Fills the request from the command line. `more` are the options of this program alone.
//
// Returns false if the help was asked for and printed. Throws std::invalid_argument for anything
// that is not an option.
bool parse(int argc, const char* const* argv, const std::string& summary, std::vector<Option> more,
           Request& request);

// A whole number of at least `least`; throws std::invalid_argument for anything else.
int64_t whole_number(const std::string& option, const std::string& text, int64_t least);

// "1x3x224x224".
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace examples

#endif  // DCN_DEPLOY_EXAMPLES_COMMAND_LINE_H_
