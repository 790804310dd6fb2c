#include "apps/embedded_demo.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>

#include "base/file.h"

namespace planish {
namespace {

// Expected bytes are read here with the standard library, not with base/file.
std::string FileBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

TEST(EmbeddedDemo, HoldsTheFilesOfModelsDemoByteForByte) {
  RegisterEmbeddedDemo();
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                           "tokenizer_config.json"}) {
    const std::string expected = FileBytes(std::string(PLANISH_SOURCE_DIR) + "/models/demo/" + name);
    ASSERT_FALSE(expected.empty()) << name;
    const auto file = MappedFile::Open(std::string("embedded:demo/") + name);
    ASSERT_TRUE(file.ok()) << file.error().message;
    const auto bytes = (*file)->bytes();
    ASSERT_EQ(bytes.size(), expected.size()) << name;
    // Not EXPECT_EQ: a difference would print 13 MB.
    EXPECT_TRUE(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == expected)
        << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % 64, 0u) << name;
  }
}

TEST(EmbeddedDemo, FolderAndNameJoinAsForFiles) {
  RegisterEmbeddedDemo();
  EXPECT_TRUE(FileExists(JoinPath("embedded:demo", "config.json")));
  EXPECT_FALSE(FileExists(JoinPath("embedded:demo", "golden.json")));
}

}  // namespace
}  // namespace planish
