// What the tests of the program share: running it in a folder of its own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace planish {

struct Outcome {
  int status = -1;  // exit status, or 128 + signal
  std::string out, err;
};

class CliTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "planish_cli_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void WriteText(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
  }
  static std::string ReadAll(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  // The process, its standard output and error in files, its input from one. It runs in folder_, so that
  // "demo" is the embedded one.
  pid_t Start(std::vector<std::string> arguments, const std::string& input = "/dev/null") const {
    arguments.insert(arguments.begin(), PLANISH_PROGRAM);
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string out = Path("out"), err = Path("err");
    const pid_t child = fork();
    if (child != 0) return child;
    setenv("XDG_CACHE_HOME", Path("cache").c_str(), 1);  // not the tester's own packs
    const int out_fd = open(out.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    const int err_fd = open(err.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    const int in_fd = open(input.c_str(), O_RDONLY);
    if (chdir(folder_.c_str()) != 0 || dup2(in_fd, 0) < 0 || dup2(out_fd, 1) < 0 || dup2(err_fd, 2) < 0) {
      _exit(126);
    }
    execv(PLANISH_PROGRAM, argv.data());
    _exit(127);
  }
  Outcome Wait(pid_t child) const {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), ReadAll(Path("out")),
            ReadAll(Path("err"))};
  }
  Outcome Run(std::vector<std::string> arguments) const { return Wait(Start(std::move(arguments))); }
  // With `input` on standard input.
  Outcome RunWith(const std::string& input, std::vector<std::string> arguments) const {
    WriteText("in", input);
    return Wait(Start(std::move(arguments), Path("in")));
  }

  // Standard output of a run that must succeed, parsed.
  Json RunJson(std::vector<std::string> arguments) const {
    arguments.push_back("--json");
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const auto json = ParseJson(outcome.out);
    EXPECT_TRUE(json.ok()) << outcome.out;
    return json.ok() ? *json : Json::object();
  }

  std::string folder_;
};

const std::string kDemo = PLANISH_SOURCE_DIR "/models/demo";
const std::string kSample = PLANISH_SOURCE_DIR "/models/text/sample.txt";

}  // namespace planish
