// Pack files: what is written is read back, and what does not belong to the model is refused.
#include "runtime/packed_model.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "model/model_test_util.h"
#include "runtime/packed_test_util.h"

namespace planish {
namespace {

using test::Must;
using testing::HasSubstr;

class PackedModelTest : public testing::Test {
 protected:
  void SetUp() override {
    test::TinyModel tiny;
    tiny.MakeTensors();
    tiny.Write(folder_.path());
    model_ = Must(LoadModel(folder_.path()));
    test::RoundLinears(context_, {4, 0, false}, true, model_);
    packed_ = Must(PackModel(context_, model_));
    path_ = folder_.path() + "/model.pack";
  }
  std::string Error(const std::string& path) {
    const auto pack = ReadPack(context_, path, model_);
    if (pack.ok()) return "accepted";
    EXPECT_EQ(pack.error().code, Code::kInput);
    EXPECT_THAT(pack.error().message, testing::StartsWith(path));
    return pack.error().message;
  }
  // A pack of the given metadata, whose tensors are those of packed_ but for what `change` does.
  using Tensors = std::map<std::string, std::pair<DType, std::vector<std::byte>>>;
  std::string Forge(const std::map<std::string, std::string>& metadata,
                    const std::function<void(Tensors&)>& change) {
    Tensors tensors;
    for (size_t i = 0; i < packed_->linears.size(); ++i) {
      if (packed_->linears[i] == nullptr) continue;
      const auto bytes = packed_->linears[i]->bytes();
      tensors[model_.linears[i].name] = {DType::kU8, {bytes.begin(), bytes.end()}};
    }
    change(tensors);
    const std::string path = folder_.path() + "/forged" + std::to_string(forged_++);
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) {
      const auto size = static_cast<int64_t>(tensor.second.size());
      specs.push_back({name, tensor.first, {size * 8 / DTypeBits(tensor.first)}});
    }
    auto writer = Must(SafetensorsWriter::Create(path, specs, metadata));
    for (const TensorSpec& spec : writer.order()) {
      EXPECT_TRUE(writer.Append(spec.name, tensors.at(spec.name).second).ok());
    }
    EXPECT_TRUE(writer.Commit().ok());
    return path;
  }

  test::TestContext test_;
  Context& context_ = test_.context;
  test::TemporaryFolder folder_;
  Model model_;
  std::shared_ptr<const PackedModel> packed_;
  std::string path_;
  int forged_ = 0;
};

TEST_F(PackedModelTest, PacksWhatIsMultipliedWithAndNothingElse) {
  int64_t bytes = 0;
  for (size_t i = 0; i < model_.linears.size(); ++i) {
    const bool embedding = model_.linears[i].name == "model.embed_tokens.weight";
    ASSERT_EQ(packed_->linears[i] == nullptr, embedding) << model_.linears[i].name;
    if (!embedding) bytes += static_cast<int64_t>(packed_->linears[i]->bytes().size());
  }
  EXPECT_EQ(packed_->bytes, bytes);
  EXPECT_THAT(packed_->notes, testing::IsEmpty());
  // Groups of 3 have no kernel.
  test::RoundLinears(context_, {4, 3, false}, false, model_);
  const auto other = Must(PackModel(context_, model_));
  ASSERT_EQ(other->notes.size(), 14u);
  EXPECT_EQ(
      other->notes[0],
      "model.layers.0.self_attn.q_proj.weight: packed as bf16 from decoded rows: no kernel for int4 g3");
}

TEST_F(PackedModelTest, RoundTripForAnyThreads) {
  ASSERT_TRUE(WritePack(path_, model_, *packed_).ok());
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const auto read = Must(ReadPack({&pool, BestIsa()}, path_, model_));
    EXPECT_EQ(read->bytes, packed_->bytes);
    for (size_t i = 0; i < model_.linears.size(); ++i) {
      ASSERT_EQ(read->linears[i] == nullptr, packed_->linears[i] == nullptr);
      if (read->linears[i] == nullptr) continue;
      EXPECT_TRUE(std::ranges::equal(read->linears[i]->bytes(), packed_->linears[i]->bytes()));
    }
    const std::string again = path_ + std::to_string(threads);
    ASSERT_TRUE(WritePack(again, model_, *Must(PackModel({&pool, Isa::kScalar}, model_))).ok());
    EXPECT_EQ(*ReadTextFile(again), *ReadTextFile(path_));
  }
}

TEST_F(PackedModelTest, WritesOverNothing) {
  std::filesystem::create_directories(path_ + ".folder");
  ASSERT_TRUE(WritePack(path_, model_, *packed_).ok());
  for (const std::string& path : {path_, path_ + ".folder"}) {
    const Status done = WritePack(path, model_, *packed_);
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.error().message, path + ": exists; remove it, or choose another name");
  }
  EXPECT_FALSE(WritePack(folder_.path() + "/none/x", model_, *packed_).ok());
}

TEST_F(PackedModelTest, RefusesWhatIsNoPackOfThisModel) {
  const std::string fingerprint = PackFingerprint(model_);
  const std::map<std::string, std::string> good = {
      {"planish_format", "planish-pack"}, {"planish_version", "3"}, {"planish_model", fingerprint}};
  const auto with = [&](const std::string& key, const std::string& value) {
    auto metadata = good;
    metadata[key] = value;
    return metadata;
  };
  const auto keep = [](Tensors&) {};
  const std::string q = "model.layers.0.self_attn.q_proj.weight";
  const std::string k = "model.layers.0.self_attn.k_proj.weight";
  ASSERT_TRUE(ReadPack(context_, Forge(good, keep), model_).ok());
  struct Bad {
    const char* message;
    std::map<std::string, std::string> metadata;
    std::function<void(Tensors&)> change;
  };
  const Bad table[] = {
      {"not a pack; expected a file that `planish pack` wrote", {}, keep},
      {"not a pack", with("planish_format", "planish-artifact"), keep},
      {"a pack of version '1'; this program reads version 3; pack the model again",
       with("planish_version", "1"), keep},
      {"a pack of version ''", with("planish_version", ""), keep},
      {"made from another model than", with("planish_model", std::string(64, '0')), keep},
      {"holds no packed 'model.layers.0.self_attn.q_proj.weight'", good, [&](Tensors& t) { t.erase(q); }},
      {"holds no packed 'model.layers.0.self_attn.q_proj.weight'", good,
       [&](Tensors& t) { t[q].first = DType::kF32; }},
      {"'model.layers.0.self_attn.q_proj.weight' is [8, 8], expected [16, 8]", good,
       [&](Tensors& t) { t[q] = t[k]; }},
      {"packed layer: 100 bytes", good, [&](Tensors& t) { t[q].second.resize(100); }},
      {"packed layer: 0 bytes", good, [&](Tensors& t) { t[q].second.clear(); }},
      {"wrong magic", good, [&](Tensors& t) { t[q].second[0] = std::byte{0}; }},
      {"packed layer of version 9", good, [&](Tensors& t) { t[q].second[8] = std::byte{9}; }},
  };
  for (const Bad& bad : table) {
    EXPECT_THAT(Error(Forge(bad.metadata, bad.change)), HasSubstr(bad.message));
  }
  // Which layer is broken is said.
  EXPECT_THAT(Error(Forge(good, [&](Tensors& t) { t[k].second[0] = std::byte{0}; })), HasSubstr(k));
}

TEST_F(PackedModelTest, RefusesFilesCutAnywhereAndOtherFiles) {
  ASSERT_TRUE(WritePack(path_, model_, *packed_).ok());
  std::ifstream in(path_, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const std::string cut = folder_.path() + "/cut";
  for (const size_t size :
       {size_t{0}, size_t{7}, size_t{8}, size_t{300}, whole.size() / 2, whole.size() - 1}) {
    std::ofstream(cut, std::ios::binary | std::ios::trunc) << whole.substr(0, size);
    EXPECT_NE(Error(cut), "accepted") << size;
  }
  EXPECT_THAT(Error(folder_.path() + "/none"), HasSubstr("none"));
  EXPECT_THAT(Error(folder_.path() + "/config.json"), HasSubstr("config.json"));
  EXPECT_THAT(Error(folder_.path() + "/model.safetensors"), HasSubstr("not a pack"));
}

// A weight, a scale, a bias or a shape that differs makes it another model.
TEST_F(PackedModelTest, FingerprintsSeeEveryPart) {
  const std::string before = PackFingerprint(model_);
  EXPECT_EQ(PackFingerprint(model_), before);
  Linear& linear = model_.linears[2];
  const Linear kept = linear;
  linear.bias.assign(static_cast<size_t>(linear.w.rows), 0);
  EXPECT_NE(PackFingerprint(model_), before);
  linear = kept;
  for (const int part : {0, 1, 2}) {
    IntegerMatrix m = UnpackInteger(kept.w);
    if (part == 0) m.codes(1, 1) ^= 1;
    if (part == 1) m.scales(1, 0) *= 2;
    if (part == 2) m.zeros(1, 0) = m.zeros(1, 0) == 0 ? 1 : 0;
    linear.w = PackInteger(m);
    EXPECT_NE(PackFingerprint(model_), before) << part;
  }
  linear = kept;
  linear.name += "x";
  EXPECT_NE(PackFingerprint(model_), before);
}

}  // namespace
}  // namespace planish
