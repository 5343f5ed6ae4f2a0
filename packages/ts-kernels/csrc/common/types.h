// Types shared by every instruction set's translation units.
//
// A header that is included from ops/ holds no ordinary inline function: the linker would merge its copies, and the
// survivor might use instructions that the machine lacks. Everything here is data or always inlined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define TS_INLINE static inline __attribute__((always_inline))
#define TS_LAMBDA __attribute__((always_inline))

namespace ts {

using i64 = std::int64_t;
using i32 = std::int32_t;
using u64 = std::uint64_t;
using u32 = std::uint32_t;
using u16 = std::uint16_t;

enum class DType : int { f32 = 0, bf16 = 1 };

// What joins the two halves of a gated MLP: act(gate) * up.
enum class Gate : int { silu = 0, swiglu_clamped = 1, gelu = 2, gelu_tanh = 3 };

struct Activation {
  Gate gate = Gate::silu;
  float alpha = 1, limit = 0;  // of swiglu_clamped
};

TS_INLINE i64 size_of(DType t) { return t == DType::f32 ? 4 : 2; }
TS_INLINE i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
TS_INLINE i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }
TS_INLINE i64 min_of(i64 a, i64 b) { return a < b ? a : b; }
TS_INLINE i64 max_of(i64 a, i64 b) { return a > b ? a : b; }

TS_INLINE float bf16_to_float(u16 h) {
  u32 bits = static_cast<u32>(h) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// Round to nearest even; NaN stays NaN.
TS_INLINE u16 float_to_bf16(float f) {
  u32 bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<u16>((bits >> 16) | 0x40u);
  return static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

TS_INLINE float load_scalar(const void* p, DType t, i64 i) {
  return t == DType::f32 ? static_cast<const float*>(p)[i] : bf16_to_float(static_cast<const u16*>(p)[i]);
}

TS_INLINE const void* at(const void* p, DType t, i64 i) { return static_cast<const char*>(p) + i * size_of(t); }
TS_INLINE void* at(void* p, DType t, i64 i) { return static_cast<char*>(p) + i * size_of(t); }

}  // namespace ts
