#include "formats/npy.h"

#include <fmt/format.h>

#include <bit>
#include <span>

#include "base/file.h"

namespace planish {
namespace {

static_assert(std::endian::native == std::endian::little, "data is written as it lies in memory");

// Magic, version 1.0, 16-bit length, then a Python dictionary padded so that the data starts at a
// multiple of 64 bytes.
std::string NpyHeader(int64_t rows, int64_t cols) {
  constexpr std::string_view kMagic("\x93NUMPY\x01\x00", 8);
  constexpr size_t kHeaderAlignment = 64;
  std::string text =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, cols);
  const size_t prefix = kMagic.size() + 2;
  const size_t whole =
      (prefix + text.size() + 1 + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment;
  text.resize(whole - prefix - 1, ' ');
  text += '\n';
  std::string header(kMagic);
  header += static_cast<char>(text.size() & 0xff);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

}  // namespace

Status WriteNpy(const std::string& path, const MatView<const float>& m) {
  PLANISH_TRY(auto file, AtomicFile::Create(path));
  PLANISH_RETURN_IF_ERROR(file.Append(NpyHeader(m.rows, m.cols)));
  const auto append = [&](const float* data, int64_t count) {
    return file.Append(std::as_bytes(std::span(data, static_cast<size_t>(count))));
  };
  if (m.stride == m.cols) {
    PLANISH_RETURN_IF_ERROR(append(m.data, m.rows * m.cols));
  } else {
    for (int64_t i = 0; i < m.rows; ++i) PLANISH_RETURN_IF_ERROR(append(m.row(i), m.cols));
  }
  return file.Commit();
}

}  // namespace planish
