// NumPy's .npy files, format 1.0: for looking at matrices with other tools.
#pragma once

#include <string>

#include "base/result.h"
#include "tensor/view.h"

namespace planish {

// Writes m [rows, cols] as little-endian float32 in C order, whole or not at all.
Status WriteNpy(const std::string& path, const MatView<const float>& m);

}  // namespace planish
