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
using u8 = std::uint8_t;

enum class DType : int { f32 = 0, bf16 = 1, e4m3 = 2 };  // e4m3 (no infinities, NaN 0x7f) is for caches alone

// What joins the two halves of a gated MLP: act(gate) * up.
enum class Gate : int { silu = 0, swiglu_clamped = 1, gelu = 2, gelu_tanh = 3 };

struct Activation {
  Gate gate = Gate::silu;
  float alpha = 1, limit = 0;  // of swiglu_clamped
};

TS_INLINE i64 size_of(DType t) { return t == DType::f32 ? 4 : t == DType::bf16 ? 2 : 1; }
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

// e4m3: bias 7, three bits of mantissa. A number below 2^-6 takes the exponent of 2^-6 and gives it back, so that no
// subnormal float is met: on Intel each one costs an assist of some 150 cycles.
TS_INLINE float e4m3_to_float(u8 h) {
  const u32 magnitude = h & 0x7fu, small = magnitude < 8;
  const u32 bits = (magnitude << 20) + ((120u + small) << 23);
  float f;
  std::memcpy(&f, &bits, 4);
  f -= static_cast<float>(small) * 0x1p-6f;
  u32 signed_bits;
  std::memcpy(&signed_bits, &f, 4);
  signed_bits |= static_cast<u32>(h & 0x80u) << 24 | (magnitude == 0x7f ? 0x7fc00000u : 0u);
  std::memcpy(&f, &signed_bits, 4);
  return f;
}

// Round to nearest even; beyond 448, the largest number there is, to 448. NaN stays NaN.
TS_INLINE u8 float_to_e4m3(float f) {
  u32 bits;
  std::memcpy(&bits, &f, 4);
  const u32 sign = bits >> 24 & 0x80u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<u8>(sign | 0x7fu);
  if (bits >= 0x43e00000u) return static_cast<u8>(sign | 0x7eu);
  if (bits < 0x3c800000u) {  // below 2^-6: in steps of 2^-9, which the addition rounds to
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0x1p14f;
    std::memcpy(&bits, &magnitude, 4);
    return static_cast<u8>(sign | (bits & 0xfu));
  }
  bits += 0x7ffffu + ((bits >> 20) & 1u);
  return static_cast<u8>(sign | ((bits >> 20) - (120u << 3)));
}

TS_INLINE float load_scalar(const void* p, DType t, i64 i) {
  return t == DType::f32 ? static_cast<const float*>(p)[i] : bf16_to_float(static_cast<const u16*>(p)[i]);
}

TS_INLINE const void* at(const void* p, DType t, i64 i) { return static_cast<const char*>(p) + i * size_of(t); }
TS_INLINE void* at(void* p, DType t, i64 i) { return static_cast<char*>(p) + i * size_of(t); }

}  // namespace ts
