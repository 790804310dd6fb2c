#include "base/result.h"

namespace planish {

Error Error::At(std::string_view place) const {
  std::string located(place);
  located += ": ";
  located += message;
  return {code, std::move(located)};
}

Error InputError(std::string message) { return {Code::kInput, std::move(message)}; }
Error FailureError(std::string message) { return {Code::kFailure, std::move(message)}; }
Error InterruptedError(std::string message) { return {Code::kInterrupted, std::move(message)}; }

namespace internal {
namespace {

// One for all that was moved from: no allocation, so that a move cannot fail.
Error* Left() {
  static Error left{Code::kFailure, "an error that was passed on"};
  return &left;
}

}  // namespace

ErrorPointer::ErrorPointer(Error error) : error_(new Error(std::move(error))) {}
Error* ErrorPointer::Copy(const Error& error) { return &error == Left() ? Left() : new Error(error); }
void ErrorPointer::Delete(Error* error) {
  if (error != Left()) delete error;
}
void ErrorPointer::Leave() { error_ = Left(); }

}  // namespace internal
}  // namespace planish
