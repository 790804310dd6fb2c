// A TinyModel's vectors whose rows are tensors of their own.
#pragma once

#include "model/model_test_util.h"
#include "model/vector_tensors.h"

namespace planish::test {

// Takes apart what MakeTensors made in one piece under a name with a star.
inline void SplitRows(TinyModel& tiny) {
  const auto program = BuildProgram(tiny.config);
  ASSERT_TRUE(program.ok()) << program.error().message;
  for (const VectorSlot& slot : program->vectors) {
    if (slot.name.find('*') == std::string::npos) continue;
    const auto whole = tiny.tensors.extract(slot.name);
    const int64_t width = slot.shape.back();
    auto row = whole.mapped().values.begin();
    for (const std::string& name : TensorsOf(slot)) {
      tiny.tensors[name] = {DType::kF32, {width}, {row, row + width}};
      row += width;
    }
  }
}

}  // namespace planish::test
