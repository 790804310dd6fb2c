// The wire format of protocol buffers, as far as small files need it: fields in order, each a number, a fixed
// word or bytes. https://protobuf.dev/programming-guides/encoding
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace planish {

struct ProtoField {
  enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  uint32_t number = 0;
  Wire wire = kVarint;
  uint64_t value = 0;      // of kVarint, kFixed64 and kFixed32
  std::string_view bytes;  // of kBytes

  // The value as the type that the schema names. Errors: another wire type, a number out of range.
  Result<int32_t> Int32() const;
  Result<bool> Bool() const;
  Result<float> Float() const;
  Result<std::string_view> Bytes() const;
};

// Reads the fields of one message, which must outlive the results.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view message) : message_(message) {}
  bool Done() const { return at_ == message_.size(); }
  // Errors name the offset: a message that ends inside a field, groups, numbers of more than 64 bits.
  Result<ProtoField> Next();

 private:
  Result<uint64_t> Varint();
  Result<uint64_t> Fixed(size_t bytes);
  std::string_view message_;
  size_t at_ = 0;
};

// Appends fields to a message.
void ProtoInt(uint32_t number, uint64_t value, std::string* message);
void ProtoFloat(uint32_t number, float value, std::string* message);
void ProtoBytes(uint32_t number, std::string_view bytes, std::string* message);

}  // namespace planish
