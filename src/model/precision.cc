#include "model/precision.h"

#include <fmt/format.h>

namespace planish {

Status UsePrecision(const Context& context, int bits, NestedRule rule, Model& model) {
  if (bits == 8) return {};
  int changed = 0;
  for (size_t i = 0; i < model.linears.size(); ++i) {
    PLANISH_RETURN_IF_ERROR(context.CheckCancelled());
    if (!model.program.linears[i].in_layer || model.program.linears[i].keep) continue;
    Matrix& w = model.linears[i].w;
    w = ReadAtBits(context, w, bits, rule, changed);
  }
  if (changed > 0) return {};
  return InputError(fmt::format(
      "{}: no linear has integer codes of more than {} bits; compress with --bits 8 to read at fewer later",
      model.path, bits));
}

}  // namespace planish
