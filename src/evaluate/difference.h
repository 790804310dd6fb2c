// Two models tensor by tensor: what a conversion or a compression did to the weights, whatever each is stored
// as. The distance of what they compute is damage.h.
#pragma once

#include <string>
#include <vector>

#include "base/context.h"
#include "model/model.h"

namespace planish {

struct TensorDifference {
  std::string name, type_a, type_b;  // types as Describe has them
  std::vector<int64_t> shape_a, shape_b;
  // Where the shapes agree, over all elements:
  double relative = 0;  // ||a - b|| / ||a||, Frobenius; infinite when only a is zero
  double max_abs = 0;   // largest |a - b|
  double cosine = 1;    // <a, b> / (||a|| ||b||); 1 when both are zero, 0 when one is
  bool same_shape() const { return shape_a == shape_b; }
};

struct FieldDifference {
  std::string field, a, b;  // JSON; empty: the field is missing
};

struct ModelDifference {
  std::vector<TensorDifference> tensors;    // in the order of a's program
  std::vector<std::string> only_a, only_b;  // names of weights and vectors
  // Of the configurations, numbers compared as floats; without parts and what no program computes by.
  std::vector<FieldDifference> fields;
  bool Same() const;  // not a bit's difference in any value, shape or field
};

// Compares the linears and vectors of two programs by name, reading rows panel by panel. The same numbers for
// any number of threads. NaN in either gives NaN.
Result<ModelDifference> CompareModels(const Context& context, const Model& a, const Model& b);

}  // namespace planish
