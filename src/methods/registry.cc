// The list of methods. A method is added by its own folder and one line here.
#include "methods/compensate/bias_stage.h"
#include "methods/compensate/low_rank_stages.h"
#include "methods/round/round_stages.h"
#include "methods/stage.h"

namespace planish {

std::span<const SolveStage* const> AllStages() {
  static const SolveStage* const kAll[] = {&RtnStage(), &GptqStage(), &EoraStage(), &LorcStage(),
                                           &BiasStage()};
  return kAll;
}

const SolveStage* FindStage(const std::string& name) {
  for (const SolveStage* stage : AllStages()) {
    if (stage->name == name) return stage;
  }
  return nullptr;
}

}  // namespace planish
