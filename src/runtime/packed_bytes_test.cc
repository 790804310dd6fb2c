// Packed layers from outside, and tables, that are not what they say.
#include <gmock/gmock.h>

#include <functional>

#include "runtime/packed_linear.h"
#include "runtime/packed_test_util.h"

namespace planish {
namespace {

using test::Must;
using test::Pack;
using test::RandomCoded;
using test::RandomMat;

template <typename T>
void Put(std::vector<std::byte>& bytes, size_t at, T value) {
  ASSERT_LE(at + sizeof(T), bytes.size());
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

TEST(PackedBytes, RefusesBytesThatDoNotFit) {
  ThreadPool pool(1);
  const Context context{&pool, BestIsa()};
  const Matrix sum =
      test::SumOf(RandomCoded(37, 100, {4, 64, false}, 0.02, 1), RandomCoded(37, 5, {8, 0, true}, 0.02, 2),
                  RandomCoded(5, 100, {8, 0, true}, 0.02, 3));
  const PackPlan plan =
      Must(PlanPackedLinear({"w", sum, std::vector<float>(37, 1)}, {.outliers = {{3, 99, 1}, {36, 0, 1}}}));
  const Buffer packed = Pack(context, plan);
  const std::vector<std::byte> good(packed.bytes().begin(), packed.bytes().end());
  ASSERT_TRUE(PackedLinear::FromBytes(good).ok());
  const auto index = static_cast<size_t>(plan.layout.outlier_index);
  const auto outliers = static_cast<size_t>(plan.layout.outliers), v = static_cast<size_t>(plan.layout.v);
  using Bytes = std::vector<std::byte>;
  struct Bad {
    const char* message;
    std::function<void(Bytes&)> spoil;
  };
  const int64_t huge = int64_t{1} << 62;
  const Bad table[] = {
      {"packed layer: 0 bytes, expected at least 128 (truncated?)", [](Bytes& b) { b.clear(); }},
      {"packed layer: 127 bytes, expected at least 128", [](Bytes& b) { b.resize(127); }},
      {"(truncated?)", [](Bytes& b) { b.resize(b.size() - 1); }},
      {"not a packed layer: wrong magic", [](Bytes& b) { Put(b, 0, 'Q'); }},
      {"packed layer of version 4, expected 3", [](Bytes& b) { Put(b, 8, uint32_t{4}); }},
      {"unknown kind 15 of packed weights", [](Bytes& b) { Put(b, 12, uint8_t{15}); }},
      {"unknown kind 255", [](Bytes& b) { Put(b, 12, uint8_t{255}); }},
      {"unknown flags 0x8", [](Bytes& b) { Put(b, 13, uint8_t{8}); }},
      {"unknown flags 0x1", [](Bytes& b) { Put(b, 13, uint8_t{1}); }},
      {"offsets are stored for integer codes only", [](Bytes& b) { Put(b, 12, uint8_t{6}); }},
      {"scales of form 6, offsets of form 1", [](Bytes& b) { Put(b, 20, uint8_t{6}); }},
      {"scales of form 0, offsets of form 200", [](Bytes& b) { Put(b, 21, uint8_t{200}); }},
      {"share their bytes: both, or none", [](Bytes& b) { Put(b, 20, uint8_t{3}); }},
      {"share their bytes: both, or none", [](Bytes& b) { Put(b, 21, uint8_t{5}); }},
      {"zero steps of 2^-9", [](Bytes& b) { Put(b, 22, uint8_t{9}); }},
      {"its shape needs", [](Bytes& b) { Put(b, 16, int32_t{16}); }},
      {"unit nan of scales, expected a positive number", [](Bytes& b) { Put(b, 80, NAN); }},
      {"unit -1 of scales", [](Bytes& b) { Put(b, 80, -1.0f); }},
      {"unit 0 of scales", [](Bytes& b) { Put(b, 80, 0.0f); }},
      {"step 64, expected 0 (dense)", [](Bytes& b) { Put(b, 12, uint8_t{12}); }},
      {"step 48, expected 16, 32, 64 or 128", [](Bytes& b) { Put(b, 16, int32_t{48}); }},
      {"step -64", [](Bytes& b) { Put(b, 16, int32_t{-64}); }},
      {"shape [0, 100]", [](Bytes& b) { Put(b, 24, int64_t{0}); }},
      {"shape [37, -1]", [](Bytes& b) { Put(b, 32, int64_t{-1}); }},
      {"expected 1 to 2^31", [huge](Bytes& b) { Put(b, 24, huge); }},
      {"its shape needs", [](Bytes& b) { Put(b, 24, int64_t{1} << 31); }},
      {"its shape needs", [](Bytes& b) { Put(b, 24, int64_t{50}); }},
      {"rank -1", [](Bytes& b) { Put(b, 40, int64_t{-1}); }},
      {"rank 0 with", [](Bytes& b) { Put(b, 40, int64_t{0}); }},
      {"its shape needs", [](Bytes& b) { Put(b, 40, int64_t{64}); }},
      {"V is [5, 100] step 64 rank 0, expected [6, 100]", [](Bytes& b) { Put(b, 40, int64_t{6}); }},
      {"1 tables, expected 0", [](Bytes& b) { Put(b, 48, int64_t{1}); }},
      {"-1 outliers", [](Bytes& b) { Put(b, 56, int64_t{-1}); }},
      {"exceeds 2^63 bytes", [huge](Bytes& b) { Put(b, 56, huge); }},
      {"is out of order", [](Bytes& b) { Put(b, 56, int64_t{3}); }},
      {"with 0 bytes of V", [](Bytes& b) { Put(b, 64, int64_t{0}); }},
      {"with -64 bytes of V", [](Bytes& b) { Put(b, 64, int64_t{-64}); }},
      {"exceeds 2^63 bytes", [](Bytes& b) { Put(b, 64, INT64_MAX); }},
      {"its shape needs", [](Bytes& b) { Put(b, 72, int64_t{0}); }},
      {"outlier index 1 of tile 0 is out of order", [&](Bytes& b) { Put(b, index, uint64_t{1}); }},
      {"outlier index 3 of tile 1 is out of order", [&](Bytes& b) { Put(b, index + 8, uint64_t{3}); }},
      {"outlier index 0 of tile 2 is out of order", [&](Bytes& b) { Put(b, index + 16, uint64_t{0}); }},
      {"outlier index 1 of tile 3 is out of order", [&](Bytes& b) { Put(b, index + 24, uint64_t{1}); }},
      {"of tile 1 is out of order", [&](Bytes& b) { Put(b, index + 8, UINT64_MAX); }},
      {"outlier at (3, 100) in tile 0", [&](Bytes& b) { Put(b, outliers + 4, uint32_t{100}); }},
      {"outlier at (16, 99) in tile 0", [&](Bytes& b) { Put(b, outliers, uint32_t{16}); }},
      {"outlier at (37, 0) in tile 2", [&](Bytes& b) { Put(b, outliers + 12, uint32_t{37}); }},
      {"not a packed layer: wrong magic", [&](Bytes& b) { Put(b, v, 'Q'); }},
      {"its shape needs", [&](Bytes& b) { Put(b, v + 24, int64_t{32}); }},
      {"V is [6, 100] step 64 rank 0, expected [5, 100] step 64",
       [&](Bytes& b) { Put(b, v + 24, int64_t{6}); }},
      {"V is [5, 99] step 64", [&](Bytes& b) { Put(b, v + 32, int64_t{99}); }},
  };
  for (const Bad& bad : table) {
    Bytes bytes = good;
    bad.spoil(bytes);
    const auto layer = PackedLinear::FromBytes(bytes);
    ASSERT_FALSE(layer.ok()) << bad.message;
    EXPECT_EQ(layer.error().code, Code::kInput);
    EXPECT_THAT(layer.error().message, testing::HasSubstr(bad.message));
  }
}

// A V that would need inputs that the layer does not ask for, or a path of its own.
TEST(PackedBytes, RefusesAVThatIsMoreThanAMatrix) {
  ThreadPool pool(1);
  const Context context{&pool, BestIsa()};
  const Matrix u = RandomCoded(20, 5, {8, 0, true}, 0.02, 2), v = RandomCoded(5, 100, {8, 0, true}, 0.02, 3);
  const PackPlan plan =
      Must(PlanPackedLinear({"w", test::SumOf(RandomCoded(20, 100, {4, 64, false}, 0.02, 1), u, v), {}}));
  const Matrix inner_u = RandomCoded(5, 2, {8, 0, true}, 0.02, 2),
               inner_v = RandomCoded(2, 100, {8, 0, true}, 0.02, 3);
  struct Bad {
    const char* message;
    PackPlan v;
  };
  const Bad table[] = {
      {"V has outliers",
       Must(PlanPackedLinear({"v", v, {}}, {.preferred_step = 64, .outliers = {{0, 0, 1}}}))},
      {"rank 2, expected [5, 100] step 64 rank 0",
       Must(PlanPackedLinear({"v", test::SumOf(v, inner_u, inner_v), {}}, {.preferred_step = 64}))},
      {"V is [5, 100] step 128", Must(PlanPackedLinear({"v", v, {}}, {.preferred_step = 128}))},
      {"V is [5, 100] step 0",
       Must(PlanPackedLinear({"v", DenseMatrix(RandomMat(5, 100, 1, 1), DType::kF32), {}}))},
  };
  for (const Bad& bad : table) {
    PackedShape shape = plan.shape;
    shape.v_bytes = bad.v.bytes();
    const PackedLayout layout = Must(LayOutPacked(shape));
    std::vector<std::byte> bytes(static_cast<size_t>(layout.total));
    const PackedHeader header = MakePackedHeader(shape, layout);
    std::memcpy(bytes.data(), &header, sizeof(header));
    const Buffer inner = Pack(context, bad.v);
    std::memcpy(bytes.data() + layout.v, inner.data(), inner.size());
    const auto layer = PackedLinear::FromBytes(bytes);
    ASSERT_FALSE(layer.ok()) << bad.message;
    EXPECT_THAT(layer.error().message, testing::HasSubstr(bad.message));
  }
}

}  // namespace
}  // namespace planish
