// Values as the bytes of a file.
#pragma once

#include <string>
#include <type_traits>

namespace planish {

// Appends a number as it lies in memory (little-endian on every machine planish runs on).
template <class T>
requires std::is_arithmetic_v<T>
void AppendBytes(std::string& out, T value) { out.append(reinterpret_cast<const char*>(&value), sizeof(T)); }

}  // namespace planish
