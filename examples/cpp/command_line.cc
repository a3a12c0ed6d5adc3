#include "command_line.h"

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <stdexcept>

namespace examples {
namespace {

// Splits "name=value" at the first "=".
std::pair<std::string, std::string> name_and_value(const std::string& option,
                                                   const std::string& text) {
  const auto split = text.find('=');
  if (split == std::string::npos || split == 0 || split + 1 == text.size()) {
    throw std::invalid_argument(option + ": expected NAME=VALUE, got '" + text + "'");
  }
  return {text.substr(0, split), text.substr(split + 1)};
}

std::vector<int64_t> sizes(const std::string& option, const std::string& text) {
  std::vector<int64_t> found;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) {
    found.push_back(whole_number(option, part, 0));
  }
  return found;
}

void print_help(const std::string& program, const std::string& summary,
                const std::vector<Option>& options) {
  std::printf("Usage: %s MODEL [OPTION...]\n\n%s\n\n", program.c_str(), summary.c_str());
  for (const Option& option : options) {
    const std::string left = option.name + (option.metavar.empty() ? "" : " " + option.metavar);
    std::printf("  %-26s %s\n", left.c_str(), option.help.c_str());
  }
}

}  // namespace

int64_t whole_number(const std::string& option, const std::string& text, int64_t least) {
  std::size_t used = 0;
  int64_t value = 0;
  try {
    value = std::stoll(text, &used);
  } catch (const std::logic_error&) {  // not a number, or out of range
    used = 0;
  }
  if (used == 0 || used != text.size() || value < least) {
    throw std::invalid_argument(option + ": expected a whole number of at least " +
                                std::to_string(least) + ", got '" + text + "'");
  }
  return value;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) {
    text += (text.empty() ? "" : "x") + std::to_string(size);
  }
  return text.empty() ? "scalar" : text;
}

bool parse(int argc, const char* const* argv, const std::string& summary, std::vector<Option> more,
           Request& request) {
  bool help = false;
  std::vector<Option> options{
      {"--runtime", "FILE", "the runtime's library [" + request.runtime + "]",
       [&](const std::string& value) { request.runtime = value; }},
      {"--plugin", "FILE",
       "the library of dcn_deploy [" + (request.plugin.empty() ? "none" : request.plugin) + "]",
       [&](const std::string& value) { request.plugin = value; }},
      {"--no-plugin", "", "load none", [&](const std::string&) { request.plugin.clear(); }},
      {"--shape", "INPUT=1,3,224,224", "shape of an input whose shape is dynamic; repeatable",
       [&](const std::string& value) {
         const auto [name, text] = name_and_value("--shape", value);
         request.shapes[name] = sizes("--shape", text);
       }},
      {"--data", "INPUT=FILE", "raw values of an input instead of random ones; repeatable",
       [&](const std::string& value) {
         const auto [name, file] = name_and_value("--data", value);
         request.data[name] = file;
       }},
      {"--save", "FOLDER", "write the raw values of each output to FOLDER/OUTPUT.bin",
       [&](const std::string& value) { request.save = value; }},
      {"--warm-up", "N", "runs that are not timed [10]",
       [&](const std::string& value) { request.warm_up = whole_number("--warm-up", value, 0); }},
      {"--runs", "N", "runs that are timed [100]",
       [&](const std::string& value) { request.runs = whole_number("--runs", value, 1); }},
  };
  std::move(more.begin(), more.end(), std::back_inserter(options));
  options.push_back({"--help", "", "this text", [&](const std::string&) { help = true; }});

  const std::string program = std::string(argv[0]).substr(std::string(argv[0]).rfind('/') + 1);
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) != 0) {
      if (!request.model.empty()) {
        throw std::invalid_argument("expected one MODEL, got '" + request.model + "' and '" + word +
                                    "'");
      }
      request.model = word;
      continue;
    }
    const auto option = std::find_if(options.begin(), options.end(),
                                     [&](const Option& known) { return known.name == word; });
    if (option == options.end()) {
      throw std::invalid_argument("expected one of the options that --help lists, got '" + word +
                                  "'");
    }
    if (option->metavar.empty()) {
      option->set("");
    } else if (i + 1 < argc) {
      option->set(argv[++i]);
    } else {
      throw std::invalid_argument(word + ": expected " + option->metavar +
                                  " behind it, got nothing");
    }
  }
  if (help) {
    print_help(program, summary, options);
    return false;
  }
  if (request.model.empty()) {
    throw std::invalid_argument("expected MODEL, got none; see --help");
  }
  return true;
}

}  // namespace examples
