// Small models of all families in the shared folder. Tests of every family go over this list, so a new family
// is a line here.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"

namespace planish::test {

struct FamilyModel {
  const char* folder;
  // Through a GGUF file: changes to the config where GGUF holds less; null: it cannot be written.
  Json gguf = Json::object();
  double logits = 1e-4;  // tolerance of the tiny models' goldens, relative to the largest logit
};
inline void PrintTo(const FamilyModel& model, std::ostream* out) { *out << model.folder; }

// Yarn whose mscale acts once, as in published models and as GGUF holds it.
inline Json OneMscale() {
  return {{"rope_theta", 10000.0}, {"rope_type", "yarn"},
          {"factor", 4.0},         {"original_max_position_embeddings", 64},
          {"mscale", 0.707},       {"mscale_all_dim", 0.707}};
}

inline std::vector<FamilyModel> AllFamilyModels() {
  return {{"mistral"},
          {"qwen2"},
          {"qwen3"},
          {"gemma3"},
          {"opt", nullptr},
          {"gpt2"},
          {"moe", {{"norm_topk_prob", true}}},
          {"tiny/cohere"},
          {"tiny/deepseek_v2"},
          {"tiny/deepseek_v2_lite", {{"rope_parameters", OneMscale()}}},
          {"tiny/falcon"},
          {"tiny/falcon7"},
          {"tiny/gemma2", {{"query_pre_attn_scalar", 16}}},
          {"tiny/gpt_neox"},
          {"tiny/granite"},
          {"tiny/llama_bias"},
          {"tiny/llama_dynamic", nullptr},
          {"tiny/llama_linear"},
          {"tiny/llama_llama3"},
          {"tiny/llama_yarn"},
          {"tiny/mamba2"},
          {"tiny/mixtral"},
          {"tiny/olmo2"},
          {"tiny/phi3"},
          {"tiny/phi3_longrope"},
          {"tiny/qwen2_moe"},
          {"tiny/qwen3_moe"},
          {"tiny/smollm3", {{"no_rope_layers", {1, 1, 1}}}},
          {"tiny/stablelm"},
          // Exact GELU for its approximation would move logits by 2e-4 only.
          {"tiny/starcoder2", Json::object(), 2e-5}};
}

// Those of which `takes` holds.
template <class Takes>
std::vector<FamilyModel> FamilyModels(const Takes& takes) {
  std::vector<FamilyModel> models;
  for (const FamilyModel& model : AllFamilyModels()) {
    if (takes(model)) models.push_back(model);
  }
  return models;
}

// For names of tests.
inline std::string NameOf(const FamilyModel& model) {
  const std::string folder = model.folder;
  return folder.substr(folder.find('/') + 1);
}

}  // namespace planish::test
