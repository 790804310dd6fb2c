// --adapter on the verbs that load a model.
#pragma once

#include <string>
#include <vector>

#include "apps/app.h"
#include "model/model.h"

namespace planish::app {

// --adapter, which may be repeated.
void AddAdapterOption(CLI::App& verb, std::vector<std::string>& adapters);
// These adapters beside the matrices of a model; says what was attached.
Status AttachAdapters(const Context& context, const std::vector<std::string>& adapters, Model& model);

}  // namespace planish::app
