// What an operation's contract forbids and only the values show: indices that a kernel would follow as addresses,
// parameters that mean nothing.
#pragma once

#include <cmath>
#include <string>

#include "common/types.h"

namespace ts {

// Becomes ts_kernels.errors.ContractError in Python.
struct Breach {
  const char* operation;
  std::string argument, expected, given;
};

[[noreturn]] void refuse(const char* operation, std::string argument, std::string expected, std::string given);

// Every value is at least `low` and below `high`.
template <class T>
void check_range(const char* operation, const char* argument, const T* values, i64 count, i64 low, i64 high) {
  for (i64 i = 0; i < count; ++i)
    if (values[i] < low || values[i] >= high)
      refuse(operation, argument, "in [" + std::to_string(low) + ", " + std::to_string(high) + ")",
             std::to_string(values[i]));
}

// Every value is below `high`; negative ones mean none.
template <class T>
void check_below(const char* operation, const char* argument, const T* values, i64 count, i64 high) {
  for (i64 i = 0; i < count; ++i)
    if (values[i] >= high) refuse(operation, argument, "below " + std::to_string(high), std::to_string(values[i]));
}

inline void check_finite(const char* operation, const char* argument, const float* values, i64 count) {
  for (i64 i = 0; i < count; ++i)
    if (!std::isfinite(values[i])) refuse(operation, argument, "finite", std::to_string(values[i]));
}

inline void check_numbers(const char* operation, const char* argument, const float* values, i64 count) {
  for (i64 i = 0; i < count; ++i)
    if (std::isnan(values[i])) refuse(operation, argument, "a number", "nan");
}

}  // namespace ts
