#include "layout/panels.h"

namespace ts {
namespace {

constexpr i64 kBlock = 16, kBlockBytes = kBlock * 4;  // words of a row that are moved together: a line of the cache

typedef u32 Four __attribute__((vector_size(16)));

TS_INLINE Four load_four(const unsigned char* p) {
  Four x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// Nonzero where a byte's lower seven bits are all ones.
TS_INLINE Four nan_bytes(Four x) { return ((x & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u; }

// Four words of four rows to four lanes of four units.
template <bool kSeekNan>
TS_INLINE void turn_four(const unsigned char* const* rows, i64 byte, u32 flip, u32* to, Four& nans) {
  Four r[4];
  for (int i = 0; i < 4; ++i) r[i] = load_four(rows[i] + byte);
  if constexpr (kSeekNan)
    for (const Four& x : r) nans |= nan_bytes(x);
  const Four a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  const Four c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  const Four out[4] = {__builtin_shufflevector(a, c, 0, 1, 4, 5), __builtin_shufflevector(a, c, 2, 3, 6, 7),
                       __builtin_shufflevector(b, d, 0, 1, 4, 5), __builtin_shufflevector(b, d, 2, 3, 6, 7)};
  for (int u = 0; u < 4; ++u) {
    const Four word = out[u] ^ flip;
    std::memcpy(to + u * kPanel, &word, sizeof word);
  }
}

// 16 words of 16 rows to 16 lanes of 16 units.
template <bool kSeekNan>
TS_INLINE void turn_block(const unsigned char* const* rows, i64 byte, u32 flip, u32* to, Four& nans) {
  for (i64 u = 0; u < kBlock; u += 4)
    for (i64 lane = 0; lane < kPanel; lane += 4)
      turn_four<kSeekNan>(rows + lane, byte + 4 * u, flip, to + u * kPanel + lane, nans);
}

struct PanelRows {
  const unsigned char* rows[kPanel];
  i64 count;
};

PanelRows rows_of(const RowSource& s, i64 panel) {
  PanelRows out{{}, min_of(kPanel, s.n - panel * kPanel)};
  for (i64 lane = 0; lane < kPanel; ++lane) {
    const i64 row = panel * kPanel + min_of(lane, out.count - 1);
    out.rows[lane] = s.first + source_row(row, s.n, s.in_turn) * s.stride;
  }
  return out;
}

// A block that is not whole: its bytes beside it, and what is missing such that it becomes zero.
template <bool kSeekNan>
void turn_rest(const PanelRows& p, i64 byte, i64 bytes, u32 flip, i64 units, u32* to, Four& nans) {
  u32 beside[kPanel][kBlock], turned[kBlock * kPanel];
  const unsigned char* rows[kPanel];
  for (i64 lane = 0; lane < kPanel; ++lane) {
    for (u32& word : beside[lane]) word = flip;
    if (lane < p.count && bytes > 0) std::memcpy(beside[lane], p.rows[lane] + byte, static_cast<std::size_t>(bytes));
    rows[lane] = reinterpret_cast<const unsigned char*>(beside[lane]);
  }
  turn_block<kSeekNan>(rows, 0, flip, turned, nans);
  std::memcpy(to, turned, static_cast<std::size_t>(units * kPanel) * 4);
}

template <bool kSeekNan>
bool turn_panel(const RowSource& s, i64 panel, i64 units, u32* to) {
  const PanelRows p = rows_of(s, panel);
  Four nans{};
  for (i64 u = 0; u < units; u += kBlock) {
    const i64 byte = 4 * u, bytes = max_of(0, min_of(kBlockBytes, s.bytes - byte));
    if (bytes == kBlockBytes && p.count == kPanel) {
      turn_block<kSeekNan>(p.rows, byte, s.flip, to + u * kPanel, nans);
    } else {
      turn_rest<kSeekNan>(p, byte, bytes, s.flip, min_of(kBlock, units - u), to + u * kPanel, nans);
    }
  }
  return (nans[0] | nans[1] | nans[2] | nans[3]) != 0;
}

float float_of(u32 bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float f16_to_float(u16 h) {
  const u32 sign = static_cast<u32>(h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  const float magnitude = float_of(rest << 13) * 0x1p112f;
  return sign ? -magnitude : magnitude;
}

// 2^(code - 127); 255 is NaN.
float e8m0_to_float(u8 code) { return float_of(code == 255 ? 0x7fc00000u : code ? u32{code} << 23 : 0x00400000u); }

struct ByteTable {
  float values[256];
  explicit ByteTable(float (*convert)(u8)) {
    for (int code = 0; code < 256; ++code) values[code] = convert(static_cast<u8>(code));
  }
};

const ByteTable kE4m3([](u8 code) { return e4m3_to_float(code); }), kE8m0(e8m0_to_float);

// `count` scales from the at-th on, each times `factor`; what follows them, up to a block's end, is zero.
template <class T, class Convert>
TS_INLINE void widen(const void* from, i64 at, i64 count, float factor, const Convert& convert, float* to) {
  const T* values = static_cast<const T*>(from) + at;
  if (count == kBlock) {
    for (i64 i = 0; i < kBlock; ++i) to[i] = convert(values[i]) * factor;
    return;
  }
  for (i64 i = 0; i < kBlock; ++i) to[i] = i < count ? convert(values[i]) * factor : 0;
}

void widen_scales(const void* from, ScaleType type, i64 at, i64 count, float factor, float* to) {
  switch (type) {
    case ScaleType::f32:
      return widen<float>(from, at, count, factor, [](float x) { return x; }, to);
    case ScaleType::bf16:
      return widen<u16>(from, at, count, factor, [](u16 x) { return bf16_to_float(x); }, to);
    case ScaleType::f16:
      return widen<u16>(from, at, count, factor, f16_to_float, to);
    case ScaleType::e4m3:
      return widen<u8>(from, at, count, factor, [](u8 x) { return kE4m3.values[x]; }, to);
    case ScaleType::e8m0:
      return widen<u8>(from, at, count, factor, [](u8 x) { return kE8m0.values[x]; }, to);
  }
}

u32 bits_of(float x) {
  u32 bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

}  // namespace

bool pack_panel(const RowSource& source, i64 panel, i64 units, bool seek_nan, u32* to) {
  return seek_nan ? turn_panel<true>(source, panel, units, to) : turn_panel<false>(source, panel, units, to);
}

void pack_columns(const DenseSource& s, i64 panel, u32* to) {
  const i64 first = panel * kPanel, lanes = min_of(kPanel, s.n - first);
  const i64 each = s.dtype == DType::f32 ? 1 : 2;
  for (i64 i = 0; i < s.k; i += each, to += kPanel) {
    const void* from = at(s.values, s.dtype, i * s.column_stride + first);
    const u16* low = static_cast<const u16*>(from);
    const u16* high = i + 1 < s.k ? low + s.column_stride : nullptr;
    for (i64 lane = 0; lane < kPanel; ++lane) to[lane] = 0;
    for (i64 lane = 0; lane < lanes; ++lane)
      to[lane] = each == 1 ? static_cast<const u32*>(from)[lane] : low[lane] | (high ? u32{high[lane]} << 16 : 0);
  }
}

bool pack_scales(const QuantizedSource& s, i64 panel, i64 groups, DType type, void* to) {
  alignas(16) float wide[kPanel][kBlock] = {}, turned[kBlock * kPanel];
  const unsigned char* rows[kPanel];
  u32 infinite = 0;
  for (i64 lane = 0; lane < kPanel; ++lane) rows[lane] = reinterpret_cast<const unsigned char*>(wide[lane]);
  for (i64 from = 0; from < groups; from += kBlock) {
    const i64 count = min_of(kBlock, groups - from);
    for (i64 lane = 0; lane < kPanel; ++lane) {
      const i64 row = panel * kPanel + lane, at = source_row(row, s.n, s.in_turn);
      const float factor = s.row_scales && row < s.n ? s.row_scales[at * s.row_scale_stride] : 1.0f;
      if (row < s.n) {
        widen_scales(s.scales, s.scale_type, at / s.scale_rows * s.scale_stride + from, count, factor, wide[lane]);
      } else {
        std::memset(wide[lane], 0, sizeof wide[lane]);
      }
    }
    Four unused{};
    turn_block<false>(rows, 0, 0, reinterpret_cast<u32*>(turned), unused);
    for (float x : turned) infinite |= (bits_of(x) & 0x7f800000) + 0x00800000;  // the top bit: an exponent of ones
    if (type == DType::f32) {
      std::memcpy(static_cast<float*>(to) + from * kPanel, turned, static_cast<std::size_t>(count * kPanel) * 4);
    } else {
      u16* half = static_cast<u16*>(to) + from * kPanel;
      for (i64 i = 0; i < count * kPanel; ++i) half[i] = static_cast<u16>(bits_of(turned[i]) >> 16);
    }
  }
  return infinite < 0x80000000;
}

void pack_zeros(const QuantizedSource& s, i64 panel, i64 groups, float* to) {
  for (i64 lane = 0; lane < kPanel; ++lane) {
    const i64 row = panel * kPanel + lane, at = source_row(row, s.n, s.in_turn);
    const u32* words = s.zeros + at / 8 * s.zero_stride;
    for (i64 g = 0; g < groups; ++g)
      to[g * kPanel + lane] = row < s.n ? static_cast<float>(static_cast<i32>(words[g] >> (4 * (at % 8)) & 15) - 8) : 0;
  }
}

}  // namespace ts
