// Codes of quantized weights as the whole numbers that AVX2 multiplies, 8 columns at a time.
//
// Nibbles become unsigned bytes, code plus an offset: VPMADDUBSW takes four numbers of a row's part in bytes (-128 to
// 127) to sums of two in 16 bits. Of INT8 it would saturate: those codes become 16 bits, and so do the row's parts
// (VPMADDWD).
#pragma once

#include "dots/dot_product.h"
#include "isa/vec.h"

namespace ts::TS_ISA {

// What is added to a code to make it unsigned. e2m1 is counted in halves.
TS_INLINE constexpr i32 offset_of(Format f) { return f == Format::int8 ? 0 : f == Format::fp4 ? 12 : 8; }

// Numbers of a row that share an exponent, and whose sums are scaled together.
TS_INLINE i64 block_of(const WeightView& w) { return w.group == 16 ? 16 : 32; }

// Bits of each part of a row below the first: the parts of a number are multiplied apart.
TS_INLINE constexpr int part_bits(Format f) { return f == Format::int8 ? 12 : 8; }
TS_INLINE constexpr int parts_of(Format f, DType t) { return (t == DType::bf16 ? 1 : 2) + (f == Format::int8 ? 0 : 1); }

struct Codes {
  vi even, odd;  // a word's codes of even k, and of odd k
};

template <Format F>
TS_INLINE Codes codes_of(vi word) {
  if constexpr (F == Format::int8)
    return {_mm256_srai_epi16(_mm256_slli_epi16(word, 8), 8), _mm256_srai_epi16(word, 8)};
  const vi mask = _mm256_set1_epi8(15);
  if constexpr (F == Format::fp4) {
    const vi table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return {_mm256_shuffle_epi8(table, _mm256_and_si256(word, mask)),
            _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi32(word, 4), mask))};
  }
  const vi moved = _mm256_xor_si256(word, _mm256_set1_epi8(static_cast<char>(0x88)));
  return {_mm256_and_si256(moved, mask), _mm256_and_si256(_mm256_srli_epi32(moved, 4), mask)};
}

// Words of one part of a block of a row: one for each step, which is half a word of codes.
template <Format F, int kBlock>
constexpr int kSteps = 2 * kBlock / static_cast<int>(unit_of(F));

}  // namespace ts::TS_ISA
