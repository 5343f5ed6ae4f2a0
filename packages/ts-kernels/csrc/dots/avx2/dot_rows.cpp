// Rows in fixed point, as dot_product.cpp multiplies them.
#include "dots/avx2/codes.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

struct FixedPoint {
  float factor, scale;
};

// Powers of two that bring numbers up to `largest` (its bits) to `bits` bits and back. Numbers below 2^-97 lose bits;
// what is not finite makes the whole block NaN.
TS_INLINE FixedPoint fixed_point(u32 largest, int bits) {
  const i32 exponent = static_cast<i32>(largest >> 23);
  if (exponent == 255) return {0, __builtin_nanf("")};
  const i32 shift = bits - 1 - (max_of(exponent, 30) - 126);  // numbers are below 2^(exponent - 126)
  return {__builtin_bit_cast(float, (127 + shift) << 23), __builtin_bit_cast(float, (127 - shift) << 23)};
}

TS_INLINE vi magnitude(vf x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }

TS_INLINE u32 largest_of(vi x) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  return static_cast<u32>(_mm_cvtsi128_si32(_mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1))));
}

TS_INLINE i32 sum_of(vi x) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

// The lower kBits of each lane as a signed number, taken off it; the lane goes on with what is above.
template <int kBits>
TS_INLINE vi take_part(vi& x) {
  const vi part = _mm256_srai_epi32(_mm256_slli_epi32(x, 32 - kBits), 32 - kBits);
  x = _mm256_srai_epi32(_mm256_sub_epi32(x, part), kBits);
  return part;
}

// Eight numbers of one part in the order of the codes: even k before odd, of 8 nibbles or of 4 bytes.
template <Format F>
TS_INLINE void store_part(vi part, u32* to) {
  if constexpr (F == Format::int8) {
    const vi order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 0, 1, 8, 9, 4, 5, 12, 13));
    const vi pairs = _mm256_shuffle_epi8(part, order);
    const __m128i all = _mm_unpacklo_epi64(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), all);
  } else {
    const vi order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 4, 12, 0, 8, 4, 12, 0, 8, 4, 12, 0, 8, 4, 12));
    const vi bytes = _mm256_shuffle_epi8(part, order);
    const __m128i all = _mm_unpacklo_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), all);
  }
}

template <Format F, int kParts, int kBlock>
void fix_row(const void* x, DType dtype, i64 k, u32* words, BlockHead* heads) {
  constexpr int kVectors = kBlock / W, kPartWords = kSteps<F, kBlock>, kBits = part_bits(F);
  for (i64 from = 0; from < k; from += kBlock, words += kParts * kPartWords, ++heads) {
    vf values[kVectors];
    vi largest = _mm256_setzero_si256(), sum = largest;
    for (int v = 0; v < kVectors; ++v) {
      const i64 at = from + v * W;
      values[v] = at < k ? load_as_float(x, dtype, at, k - at) : zero();
      largest = _mm256_max_epu32(largest, magnitude(values[v]));
    }
    const FixedPoint point = fixed_point(largest_of(largest), dtype == DType::bf16 ? 15 : 23);
    for (int v = 0; v < kVectors; ++v) {
      vi left = _mm256_cvtps_epi32(values[v] * set1(point.factor));
      sum = _mm256_add_epi32(sum, left);
      for (int part = kParts - 1; part >= 0; --part)
        store_part<F>(part ? take_part<kBits>(left) : left, words + part * kPartWords + v * (kPartWords / kVectors));
    }
    const i32 total = sum_of(sum);
    heads->scale = point.scale, heads->high = static_cast<float>(total), heads->low = 0;
    heads->start[0] = static_cast<i32>(static_cast<u32>(-offset_of(F)) * static_cast<u32>(total));
  }
}

using FixRow = void (*)(const void*, DType, i64, u32*, BlockHead*);

FixRow fixer(const WeightView& w, DType dtype) {
  const bool half = dtype == DType::bf16;
  if (w.format == Format::int8) return half ? fix_row<Format::int8, 1, 32> : fix_row<Format::int8, 2, 32>;
  if (w.format != Format::fp4) return half ? fix_row<Format::int4, 2, 32> : fix_row<Format::int4, 3, 32>;
  if (block_of(w) == 16) return half ? fix_row<Format::fp4, 2, 16> : fix_row<Format::fp4, 3, 16>;
  return half ? fix_row<Format::fp4, 2, 32> : fix_row<Format::fp4, 3, 32>;
}

}  // namespace

DotRows dot_rows(Pool* pool, const WeightView& w, const void* x, i64 x_stride, i64 rows, DType dtype, Slot slot) {
  DotRows out;
  const i64 block = block_of(w), steps = 2 * block / unit_of(w.format);
  out.parts = parts_of(w.format, dtype), out.blocks = ceil_div(w.k, block);
  out.row_words = spread(out.blocks * out.parts * steps * 4) / 4;
  constexpr i64 kHeadWords = sizeof(BlockHead) / 4;
  u32* words = scratch_of<u32>(slot, rows * (out.row_words + out.blocks * kHeadWords));
  BlockHead* heads = reinterpret_cast<BlockHead*>(words + rows * out.row_words);
  const FixRow fix = fixer(w, dtype);
  const auto run = [&](i64 row) {
    fix(at(x, dtype, row * x_stride), dtype, w.k, words + row * out.row_words, heads + row * out.blocks);
  };
  out.bytes = words, out.heads = heads;
  if (pool) {
    parallel(*pool, rows, rows * w.k, run);
  } else {
    for (i64 row = 0; row < rows; ++row) run(row);
  }
  return out;
}

}  // namespace ts::TS_ISA
