// Errors as values. Everything that can fail because of the world outside (files, options,
// requests, memory limits) returns Result<T>; mistakes of our own are PLANISH_CHECKs (check.h).
//
// A message says where, what was found, what was expected and what to try; each level of a call
// adds its place in front with Error::At ("model.safetensors: tensor 'x': ...").
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

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
  Error At(std::string_view place) const;
};

Error InputError(std::string message);
Error FailureError(std::string message);
Error InterruptedError(std::string message);

namespace internal {

// What a Result holds of an error: a pointer, null when there is none, so that passing errors up through the
// many calls that may fail is a move of one word, and the code that makes and destroys them stands in
// result.cc once.
class ErrorPointer {
 public:
  ErrorPointer() = default;
  ErrorPointer(Error error);  // NOLINT: implicit by design
  ErrorPointer(ErrorPointer&& other) noexcept : error_(other.error_) {
    if (error_ != nullptr) other.Leave();
  }
  ErrorPointer(const ErrorPointer& other) : error_(other.error_ == nullptr ? nullptr : Copy(*other.error_)) {}
  ErrorPointer& operator=(ErrorPointer other) noexcept {
    std::swap(error_, other.error_);
    return *this;
  }
  ~ErrorPointer() {
    if (error_ != nullptr) Delete(error_);
  }
  explicit operator bool() const { return error_ != nullptr; }
  const Error& operator*() const { return *error_; }

 private:
  static Error* Copy(const Error& error);
  static void Delete(Error* error);
  void Leave();  // what was moved from stays an error, one that is shared

  Error* error_ = nullptr;
};

}  // namespace internal

// A value or an error. One word larger than the value.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                       // NOLINT: implicit by design
  Result(Error error) : error_(std::move(error)) {}                   // NOLINT
  Result(internal::ErrorPointer error) : error_(std::move(error)) {}  // NOLINT
  Result(Result&& other) noexcept(std::is_nothrow_move_constructible_v<T>) : error_(std::move(other.error_)) {
    if (!error_) std::construct_at(&value_, std::move(other.value_));
  }
  Result(const Result& other) requires std::is_copy_constructible_v<T> : error_(other.error_) {
    if (!error_) std::construct_at(&value_, other.value_);
  }
  Result& operator=(Result other) noexcept(std::is_nothrow_move_constructible_v<T>) {
    std::destroy_at(this);
    std::construct_at(this, std::move(other));
    return *this;
  }
  ~Result() {
    if (!error_) std::destroy_at(&value_);
  }

  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }

  // Value access aborts when there is none: call only after ok().
  T& value() & { return *Get(); }
  const T& value() const& { return *const_cast<Result*>(this)->Get(); }
  T&& value() && { return std::move(*Get()); }
  T& operator*() & { return *Get(); }
  const T& operator*() const& { return *const_cast<Result*>(this)->Get(); }
  T* operator->() { return Get(); }
  const T* operator->() const { return const_cast<Result*>(this)->Get(); }

  // Call only after !ok().
  const Error& error() const { return *error_; }
  internal::ErrorPointer TakeError() && { return std::move(error_); }

 private:
  T* Get() {
    if (error_) std::abort();
    return &value_;
  }

  internal::ErrorPointer error_;
  union {
    T value_;
  };
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}                   // NOLINT: implicit by design
  Result(internal::ErrorPointer error) : error_(std::move(error)) {}  // NOLINT
  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }
  internal::ErrorPointer TakeError() && { return std::move(error_); }

 private:
  internal::ErrorPointer error_;
};

using Status = Result<void>;

}  // namespace planish

#define PLANISH_CONCAT_INNER(a, b) a##b
#define PLANISH_CONCAT(a, b) PLANISH_CONCAT_INNER(a, b)

// PLANISH_TRY(auto x, Expression()): x is the value, or the function returns the error.
#define PLANISH_TRY(declaration, expression) \
  PLANISH_TRY_IMPL(PLANISH_CONCAT(planish_result_, __LINE__), declaration, expression)
#define PLANISH_TRY_IMPL(temporary, declaration, expression)    \
  auto temporary = (expression);                                \
  if (!temporary.ok()) return std::move(temporary).TakeError(); \
  declaration = std::move(temporary).value()

// PLANISH_RETURN_IF_ERROR(StatusExpression()): the function returns the error, if any.
#define PLANISH_RETURN_IF_ERROR(expression)                                 \
  do {                                                                      \
    auto planish_status = (expression);                                     \
    if (!planish_status.ok()) return std::move(planish_status).TakeError(); \
  } while (false)
