// Errors as values. Everything that can fail because of the world outside (files, options,
// requests, memory limits) returns Result<T>; mistakes of our own are PLANISH_CHECKs (check.h).
//
// A message says where, what was found, what was expected and what to try; each level of a call
// adds its place in front with Error::At ("model.safetensors: tensor 'x': ...").
#pragma once

#include <cstdlib>
#include <string>
#include <utility>
#include <variant>

namespace planish {

// The classes of failure; the program's exit status is the number itself.
enum class Code {
  kFailure = 1,        // the machine or the run failed: disk full, no memory, no convergence
  kInput = 2,          // a file, option or request is wrong
  kRefused = 3,        // a contract's limit is exceeded
  kInterrupted = 130,  // the user stopped the run
};

struct Error {
  Code code = Code::kFailure;
  std::string message;

  // The same error with its place in front: "place: message".
  Error At(const std::string& place) const { return {code, place + ": " + message}; }
};

inline Error InputError(std::string message) { return {Code::kInput, std::move(message)}; }
inline Error FailureError(std::string message) { return {Code::kFailure, std::move(message)}; }
inline Error InterruptedError(std::string message) { return {Code::kInterrupted, std::move(message)}; }

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : body_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit by design
  Result(Error error) : body_(std::in_place_index<1>, std::move(error)) {}  // NOLINT
  bool ok() const { return body_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Value access aborts when there is none: call only after ok().
  T& value() & { return *Get(); }
  const T& value() const& { return *const_cast<Result*>(this)->Get(); }
  T&& value() && { return std::move(*Get()); }
  T& operator*() & { return *Get(); }
  const T& operator*() const& { return *const_cast<Result*>(this)->Get(); }
  T* operator->() { return Get(); }
  const T* operator->() const { return const_cast<Result*>(this)->Get(); }

  const Error& error() const { return std::get<1>(body_); }

 private:
  T* Get() {
    T* value = std::get_if<0>(&body_);
    if (value == nullptr) std::abort();
    return value;
  }
  std::variant<T, Error> body_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : failed_(true), error_(std::move(error)) {}  // NOLINT: implicit by design
  bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return error_; }

 private:
  bool failed_ = false;
  Error error_;
};

using Status = Result<void>;

}  // namespace planish

#define PLANISH_CONCAT_INNER(a, b) a##b
#define PLANISH_CONCAT(a, b) PLANISH_CONCAT_INNER(a, b)

// PLANISH_TRY(auto x, Expression()): x is the value, or the function returns the error.
#define PLANISH_TRY(declaration, expression) \
  PLANISH_TRY_IMPL(PLANISH_CONCAT(planish_result_, __LINE__), declaration, expression)
#define PLANISH_TRY_IMPL(temporary, declaration, expression) \
  auto temporary = (expression);                             \
  if (!temporary.ok()) return temporary.error();             \
  declaration = std::move(temporary).value()

// PLANISH_RETURN_IF_ERROR(StatusExpression()): the function returns the error, if any.
#define PLANISH_RETURN_IF_ERROR(expression)                  \
  do {                                                       \
    auto planish_status = (expression);                      \
    if (!planish_status.ok()) return planish_status.error(); \
  } while (false)
