// Rows in the form that the dot products take.
#include <atomic>

#include "dots/code_product.h"
#include "dots/codes.h"
#include "dots/dot_product.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

struct FixedPoint {
  vf factor, scale;
};

// Of the largest number of a block for code_product.h, biased: its 32 products with 7 bits stay below 2^128.
constexpr u32 kLargestExponent = 127 + 100;

// Powers of two that bring numbers up to `largest` (its bits) to `bits` bits and back. Numbers below 2^-97 lose bits;
// what is not finite makes the whole block NaN.
FixedPoint fixed_point(u32 largest, int bits) {
  const i32 exponent = static_cast<i32>(largest >> 23);
  if (exponent == 255) return {zero(), as_float(_mm512_set1_epi32(0x7fc00000))};
  const i32 shift = bits - 1 - (max_of(exponent, 30) - 126);  // numbers are below 2^(exponent - 126)
  return {as_float(_mm512_set1_epi32((127 + shift) << 23)), as_float(_mm512_set1_epi32((127 - shift) << 23))};
}

// The bits of |x|, whose order is that of the numbers.
TS_INLINE vi magnitude(vf x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)); }

// The low byte of each lane as a number from -128 to 127, taken off it; the lane goes on with what is above.
TS_INLINE vi take_byte(vi& x) {
  const vi byte = _mm512_srai_epi32(_mm512_slli_epi32(x, 24), 24);
  x = _mm512_srai_epi32(_mm512_sub_epi32(x, byte), 8);
  return byte;
}

// A unit of nibbles is multiplied as its even k, then its odd k.
template <bool kNibbles>
TS_INLINE __m128i ordered(vi bytes) {
  const __m128i packed = _mm512_cvtepi32_epi8(bytes);
  return kNibbles ? _mm_shuffle_epi8(packed, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15))
                  : packed;
}

template <bool kNibbles, int kParts, int kBlock>
void fix_row(const void* x, DType dtype, i64 k, i32 offset, u32* words, BlockHead* heads) {
  constexpr int kVectors = kBlock / W;
  for (i64 from = 0; from < k; from += kBlock, words += kParts * kBlock / 4, ++heads) {
    vf values[kVectors];
    vi largest = _mm512_setzero_si512();
    for (int v = 0; v < kVectors; ++v) {
      const i64 at = from + v * W;
      values[v] = at < k ? load_as_float(x, dtype, at, k - at) : zero();
      largest = _mm512_max_epu32(largest, magnitude(values[v]));
    }
    const FixedPoint point = fixed_point(_mm512_reduce_max_epu32(largest), kParts * 8 - 1);
    i32 sums[3] = {};
    for (int v = 0; v < kVectors; ++v) {
      vi left = _mm512_cvtps_epi32(values[v] * point.factor);
      for (int part = kParts - 1; part >= 0; --part) {
        const vi bytes = part ? take_byte(left) : left;
        sums[part] += _mm512_reduce_add_epi32(bytes);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(words + part * kBlock / 4 + v * 4), ordered<kNibbles>(bytes));
      }
    }
    heads->scale = _mm512_cvtss_f32(point.scale);
    for (int part = 0; part < 3; ++part) heads->start[part] = -offset * sums[part];
    heads->high = static_cast<float>(sums[0] * 256 + sums[1]), heads->low = static_cast<float>(sums[2]);
  }
}

// A row rounded to its blocks' fixed point, as bf16, which holds it, numbers i and i + 4 of each 8 as a pair; false
// where a number is too large.
template <int kBlock>
bool round_row(const u16* x, i64 k, u16* pairs, float* sums) {
  constexpr int kVectors = kBlock / W;
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
  bool fits = true;
  for (i64 from = 0; from < k; from += kBlock, pairs += kBlock) {
    vf values[kVectors];
    vi largest = _mm512_setzero_si512(), sum = _mm512_setzero_si512();
    for (int v = 0; v < kVectors; ++v) {
      const i64 at = from + v * W;
      values[v] = at < k ? load_as_float(x, DType::bf16, at, k - at) : zero();
      largest = _mm512_max_epu32(largest, magnitude(values[v]));
    }
    const u32 most = _mm512_reduce_max_epu32(largest);
    fits &= most >> 23 < kLargestExponent || most >> 23 == 255;
    const FixedPoint point = fixed_point(most, 15);
    for (int v = 0; v < kVectors; ++v) {
      const vi whole = _mm512_cvtps_epi32(values[v] * point.factor);
      sum = _mm512_add_epi32(sum, whole);
      const vi bits = _mm512_castps_si512(_mm512_cvtepi32_ps(whole) * point.scale);
      const __m256i exact = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + v * W), _mm256_shuffle_epi8(exact, order));
    }
    *sums++ = static_cast<float>(_mm512_reduce_add_epi32(sum)) * _mm512_cvtss_f32(point.scale);
  }
  return fits;
}

using FixRow = void (*)(const void*, DType, i64, i32, u32*, BlockHead*);

FixRow fixer(const WeightView& w, int parts) {
  if (unit_of(w.format) == 4) return parts == 3 ? fix_row<false, 3, 32> : fix_row<false, 2, 32>;
  if (block_of(w) == 16) return parts == 3 ? fix_row<true, 3, 16> : fix_row<true, 2, 16>;
  return parts == 3 ? fix_row<true, 3, 32> : fix_row<true, 2, 32>;
}

template <class Body>
void for_rows(Pool* pool, i64 rows, i64 work, const Body& body) {
  if (pool) return parallel(*pool, rows, work, body);
  for (i64 row = 0; row < rows; ++row) body(row);
}

// bf16 rows that can be read in pairs: as they are, or copied with a zero after an odd last one, or apart.
DotRows paired(Pool* pool, const void* x, i64 x_stride, i64 rows, i64 k, Slot slot) {
  DotRows out;
  out.pairs = static_cast<const u16*>(x), out.stride = x_stride;
  if (k % 2 == 0 && (rows < 6 || spread(x_stride * 2) == x_stride * 2)) return out;
  const i64 stride = spread(round_up(k, 2) * 2) / 2;
  u16* copy = scratch_of<u16>(slot, rows * stride);
  const u16* from = out.pairs;
  for_rows(pool, rows, rows * k, [&](i64 row) {
    std::memcpy(copy + row * stride, from + row * x_stride, static_cast<std::size_t>(k) * 2);
    if (k % 2) copy[row * stride + k] = 0;
  });
  out.pairs = copy, out.stride = stride;
  return out;
}

}  // namespace

bool code_rows(Pool* pool, const WeightView& w, const void* x, i64 x_stride, i64 rows, Slot slot, DotRows& out) {
  const i64 block = block_of(w), blocks = ceil_div(w.k, block), stride = spread(blocks * block * 2) / 2;
  u16* pairs = scratch_of<u16>(slot, rows * (stride + 2 * blocks));
  float* sums = reinterpret_cast<float*>(pairs + rows * stride);
  std::atomic<bool> fit{true};
  for_rows(pool, rows, rows * w.k, [&](i64 row) {
    const auto round = block == 16 ? round_row<16> : round_row<32>;
    if (!round(static_cast<const u16*>(x) + row * x_stride, w.k, pairs + row * stride, sums + row * blocks))
      fit.store(false, std::memory_order_relaxed);
  });
  if (fit.load(std::memory_order_relaxed)) out.pairs = pairs, out.stride = stride, out.sums = sums, out.blocks = blocks;
  return out.sums;
}

DotRows dot_rows(Pool* pool, const WeightView& w, const void* x, i64 x_stride, i64 rows, DType dtype, Slot slot) {
  if (w.format == Format::bf16 || w.format == Format::fp8) return paired(pool, x, x_stride, rows, w.k, slot);
  DotRows out;
  if (codes_serve(w, dtype, rows) && code_rows(pool, w, x, x_stride, rows, slot, out)) return out;
  const i64 block = block_of(w);
  out.parts = dtype == DType::bf16 ? 2 : 3, out.blocks = ceil_div(w.k, block);
  out.row_words = spread(out.blocks * out.parts * block) / 4;
  constexpr i64 kHeadWords = sizeof(BlockHead) / 4;
  u32* words = scratch_of<u32>(slot, rows * (out.row_words + out.blocks * kHeadWords));
  BlockHead* heads = reinterpret_cast<BlockHead*>(words + rows * out.row_words);
  const FixRow fix = fixer(w, out.parts);
  for_rows(pool, rows, rows * w.k, [&](i64 row) {
    fix(at(x, dtype, row * x_stride), dtype, w.k, offset_of(w.format), words + row * out.row_words,
        heads + row * out.blocks);
  });
  out.bytes = words, out.heads = heads;
  return out;
}

}  // namespace ts::TS_ISA
