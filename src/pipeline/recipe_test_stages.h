// A small table of methods for the tests and the fuzz target of recipes; nothing in it computes.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "methods/stage.h"

namespace planish {

inline std::span<const SolveStage* const> RecipeTestStages() {
  const auto make = [](std::string name, StageKind kind, std::vector<OptionSpec> options) {
    SolveStage stage;
    stage.name = std::move(name);
    stage.kind = kind;
    stage.options = std::move(options);
    return stage;
  };
  static const SolveStage gptq = make("gptq", StageKind::kRound,
                                      {{"bits", int64_t{4}, 2, 8, {}, ""},
                                       {"group", int64_t{128}, 0, 65536, {}, ""},
                                       {"damping", 0.01, 0, 10, {}, ""},
                                       {"order", std::string("natural"), 0, 0, {"natural", "activation"}, ""},
                                       {"symmetric", false, 0, 0, {}, ""}});
  // Fewer options, and bits and order that allow something else.
  static const SolveStage nearest = make("nearest", StageKind::kRound,
                                         {{"bits", int64_t{6}, 3, 16, {}, ""},
                                          {"group", int64_t{64}, 0, 65536, {}, ""},
                                          {"order", std::string("rows"), 0, 0, {"rows", "columns"}, ""},
                                          {"search", true, 0, 0, {}, ""}});
  // `damping` is a number here as there, `scale` an integer here and a number in "bias".
  static const SolveStage low_rank = make("low_rank", StageKind::kCompensate,
                                          {{"rank", int64_t{16}, 0, 4096, {}, ""},
                                           {"damping", 0.5, 0, 1, {}, ""},
                                           {"scale", int64_t{1}, 0, 9, {}, ""}});
  static const SolveStage bias =
      make("bias", StageKind::kCompensate,
           {{"scale", 1.5, 0, 100, {}, ""}, {"note", std::string(), 0, 0, {}, ""}});
  static const SolveStage* const all[] = {&gptq, &nearest, &low_rank, &bias};
  return all;
}

}  // namespace planish
