// planish inspect --stored: a file or folder as it is stored.
#pragma once

#include <string>

#include "apps/app.h"

namespace planish::app {

// True for what is no model: an adapter, an importance matrix, statistics, a single file of tensors.
bool IsOnlyStored(const std::string& path);
Status InspectStored(const Context& context, const std::string& path, bool checksum, bool json);

}  // namespace planish::app
