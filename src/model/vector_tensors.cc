#include "model/vector_tensors.h"

namespace planish {

std::vector<std::string> TensorsOf(const VectorSlot& slot) {
  const size_t star = slot.name.find('*');
  if (star == std::string::npos) return {slot.name};
  std::vector<std::string> names;
  for (int64_t i = 0; i < slot.shape.front(); ++i) {
    names.push_back(slot.name);
    names.back().replace(star, 1, std::to_string(i));
  }
  return names;
}

}  // namespace planish
