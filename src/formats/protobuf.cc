#include "formats/protobuf.h"

#include <fmt/format.h>

#include <bit>

#include "base/checked.h"

namespace planish {
namespace {

void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

void AppendTag(uint32_t number, ProtoField::Wire wire, std::string* out) {
  AppendVarint(uint64_t{number} << 3 | wire, out);
}

Error WrongWire(const ProtoField& field, const char* expected) {
  return InputError(fmt::format("field {} has wire type {}, expected {}", field.number,
                                static_cast<int>(field.wire), expected));
}

}  // namespace

Result<int32_t> ProtoField::Int32() const {
  if (wire != kVarint) return WrongWire(*this, "a number");
  // Negative numbers are written with 64 bits.
  const auto narrow = CheckedNarrow<int32_t>(static_cast<int64_t>(value));
  if (!narrow) return InputError(fmt::format("field {}: {} is no 32-bit number", number, value));
  return *narrow;
}

Result<bool> ProtoField::Bool() const {
  if (wire != kVarint) return WrongWire(*this, "a number");
  return value != 0;
}

Result<float> ProtoField::Float() const {
  if (wire != kFixed32) return WrongWire(*this, "a 32-bit word");
  return std::bit_cast<float>(static_cast<uint32_t>(value));
}

Result<std::string_view> ProtoField::Bytes() const {
  if (wire != kBytes) return WrongWire(*this, "bytes");
  return bytes;
}

Result<uint64_t> ProtoReader::Varint() {
  const size_t start = at_;
  uint64_t value = 0;
  for (int shift = 0; at_ < message_.size(); shift += 7) {
    const auto byte = static_cast<uint8_t>(message_[at_++]);
    if (shift == 63 && byte > 1)
      return InputError(fmt::format("a number of more than 64 bits at byte {}", start));
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return InputError(fmt::format("the message ends inside the number at byte {} (truncated?)", start));
}

Result<uint64_t> ProtoReader::Fixed(size_t bytes) {
  if (bytes > message_.size() - at_) {
    return InputError(fmt::format("the message ends inside the word at byte {} (truncated?)", at_));
  }
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(message_[at_ + i])) << (8 * i);
  }
  at_ += bytes;
  return value;
}

Result<ProtoField> ProtoReader::Next() {
  const size_t start = at_;
  PLANISH_TRY(const uint64_t tag, Varint());
  ProtoField field;
  field.number = static_cast<uint32_t>(tag >> 3);
  if (tag >> 3 == 0 || tag >> 3 >= uint64_t{1} << 29) {
    return InputError(fmt::format("field number {} at byte {} (not a protocol buffer?)", tag >> 3, start));
  }
  switch (tag & 7) {
    case ProtoField::kVarint: {
      PLANISH_TRY(field.value, Varint());
      break;
    }
    case ProtoField::kFixed64: {
      PLANISH_TRY(field.value, Fixed(8));
      break;
    }
    case ProtoField::kFixed32: {
      PLANISH_TRY(field.value, Fixed(4));
      break;
    }
    case ProtoField::kBytes: {
      PLANISH_TRY(const uint64_t size, Varint());
      if (size > message_.size() - at_) {
        return InputError(fmt::format("field {} at byte {} has {} bytes, {} are left (truncated?)",
                                      field.number, start, size, message_.size() - at_));
      }
      field.bytes = message_.substr(at_, size);
      at_ += size;
      break;
    }
    default:
      return InputError(fmt::format("field {} at byte {} has wire type {} (not a protocol buffer?)",
                                    field.number, start, tag & 7));
  }
  field.wire = static_cast<ProtoField::Wire>(tag & 7);
  return field;
}

void ProtoInt(uint32_t number, uint64_t value, std::string* message) {
  AppendTag(number, ProtoField::kVarint, message);
  AppendVarint(value, message);
}

void ProtoFloat(uint32_t number, float value, std::string* message) {
  AppendTag(number, ProtoField::kFixed32, message);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) message->push_back(static_cast<char>(bits >> shift));
}

void ProtoBytes(uint32_t number, std::string_view bytes, std::string* message) {
  AppendTag(number, ProtoField::kBytes, message);
  AppendVarint(bytes.size(), message);
  message->append(bytes);
}

}  // namespace planish
