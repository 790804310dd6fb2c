// What a format cannot hold, collected over all layers before anything is written.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "export/target.h"
#include "layer/linear.h"

namespace planish {

// Why a layer does not fit, and the options that make it fit.
struct Refusal {
  std::string reason, fix;
};

// Refusals and the layers that have them, in order of appearance.
class Refusals {
 public:
  void Add(const Refusal& refusal, const std::string& layer);
  // An error of Code::kRefused with a line for every reason: all of its layers, those that differ in a number
  // joined ("model.layers.{0-5}.mlp.up_proj"), and the options. No error without refusals.
  Status ToStatus(const std::string& format) const;

 private:
  struct Group {
    Refusal refusal;
    std::vector<std::string> layers;
  };
  std::vector<Group> groups_;
};

// Names that differ in a number alone as one, in order of appearance: "layers.0.up", "layers.1.up",
// "layers.3.up" -> "layers.{0-1,3}.up". Numbers are whole parts between dots; where several differ, all
// combinations are there: "layers.{0-1}.experts.{0-7}.up".
std::vector<std::string> GroupNumbered(const std::vector<std::string>& names);

// "model.layers.0.mlp.up_proj.weight" without ".weight".
std::string ModuleName(const std::string& weight);

// Whether a term of a sum is a low-rank path.
bool IsPath(const Matrix& matrix);
// Whether a low-rank path stands beside the matrix.
bool HasPath(const Linear& linear);

// The matrix that a format with one matrix a layer gets: the whole, or what is left without its low-rank
// paths. Null after a refusal: paths of which `paths` does not say what becomes of them; anything else beside
// the matrix (outliers), unless it is merged.
const Matrix* OneMatrix(const Linear& linear, Paths paths, Refusals& refusals);

// Refuses a bias that compression made where the model has none.
void RefuseOwnBias(const LinearSlot& slot, const Linear& linear, Refusals& refusals);

}  // namespace planish
