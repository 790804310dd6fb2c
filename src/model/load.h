// Loading a model in other ways than LoadModel(path) of model.h does.
#pragma once

#include <string>
#include <vector>

#include "model/model.h"

namespace planish {

struct LoadOptions {
  // Fields of config.json to read it without, "name" or "rope_scaling.name": the way out where a config has
  // one that its family does not implement and that means nothing. Ones that are not there are no error.
  std::vector<std::string> ignored_fields;
  // The same for tensors that the model does not read: names, or their beginnings up to a dot, with stars for
  // any text.
  std::vector<std::string> ignored_tensors;
};
Result<Model> LoadModel(const std::string& path, const LoadOptions& options);

}  // namespace planish
