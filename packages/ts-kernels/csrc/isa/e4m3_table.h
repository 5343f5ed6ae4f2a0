// e4m3 numbers as bf16 by a table of all 128 without their sign, which two registers hold of each byte (VBMI).
#pragma once

#include "isa/e4m3.h"

namespace ts::TS_ISA {

struct alignas(64) E4m3Table {
  u8 high[128], low[128];
};

// Of numbers times 2^-lowered. The code of NaN becomes 0x7fc0, or is taken for a number.
constexpr E4m3Table e4m3_table(u32 lowered, bool keep_nan) {
  E4m3Table table{};
  for (u32 code = 0; code < 128; ++code) {
    u32 exponent = code >> 3, fraction = code & 7, bits = 0;
    if (exponent == 0 && fraction != 0)
      for (exponent = 1; fraction < 8; --exponent) fraction *= 2;
    if (code != 0) bits = (exponent + 127 - 7 - lowered) << 7 | (fraction & 7) << 4;
    if (code == 127 && keep_nan) bits = 0x7fc0;
    table.high[code] = static_cast<u8>(bits >> 8), table.low[code] = static_cast<u8>(bits & 255);
  }
  return table;
}

#if defined(TS_HAS_PAIRS)
struct E4m3Decoder {
  vi high[2], low[2];

  TS_INLINE E4m3Decoder make(const E4m3Table& t) {
    return {{_mm512_load_si512(t.high), _mm512_load_si512(t.high + 64)},
            {_mm512_load_si512(t.low), _mm512_load_si512(t.low + 64)}};
  }

  // Of each 16 codes the first 8 go to pair[0], the others to pair[1].
  TS_INLINE void decode(const E4m3Decoder& d, vi codes, vi (&pair)[2]) {
    const vi unsigned_high = _mm512_permutex2var_epi8(d.high[0], codes, d.high[1]);  // selectors ignore the sign
    const vi sign = _mm512_set1_epi8(static_cast<char>(0x80));
    const vi signed_high = _mm512_ternarylogic_epi32(unsigned_high, codes, sign, 0xf8);  // high | (codes & sign)
    const vi signless_low = _mm512_permutex2var_epi8(d.low[0], codes, d.low[1]);
    pair[0] = _mm512_unpacklo_epi8(signless_low, signed_high);
    pair[1] = _mm512_unpackhi_epi8(signless_low, signed_high);
  }

  // In order.
  TS_INLINE void decode_in_order(const E4m3Decoder& d, vi codes, vi (&pair)[2]) {
    decode(d, _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes), pair);
  }
};
#endif

}  // namespace ts::TS_ISA
