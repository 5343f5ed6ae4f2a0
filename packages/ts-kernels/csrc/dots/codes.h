// Codes of quantized weights as the unsigned bytes that VPDPBUSD multiplies: code plus an offset, times a unit.
#pragma once

#include <immintrin.h>

#include "isa/vec.h"
#include "layout/packed.h"

namespace ts::TS_ISA {

// What is added to a code to make it unsigned. e2m1 is counted in halves.
TS_INLINE constexpr i32 offset_of(Format f) { return f == Format::int8 ? 128 : f == Format::fp4 ? 12 : 8; }

// Numbers of a row that share an exponent, and whose sums are scaled together.
TS_INLINE i64 block_of(const WeightView& w) { return w.group == 16 ? 16 : 32; }

struct Bytes {
  vi even, odd;  // of 8 nibbles: those of even k, those of odd k
};

// The 8 nibbles of each word.
template <Format F>
TS_INLINE Bytes bytes_of(vi word) {
  const vi mask = _mm512_set1_epi8(15), high = _mm512_srli_epi32(word, 4);
  if constexpr (F == Format::fp4) {
    const vi table = _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return {_mm512_shuffle_epi8(table, _mm512_and_si512(word, mask)),
            _mm512_shuffle_epi8(table, _mm512_and_si512(high, mask))};
  }
  const vi top = _mm512_set1_epi8(static_cast<char>(0x88));  // (word ^ top) & mask in one instruction
  return {_mm512_ternarylogic_epi32(word, top, mask, 0x28), _mm512_ternarylogic_epi32(high, top, mask, 0x28)};
}

}  // namespace ts::TS_ISA
