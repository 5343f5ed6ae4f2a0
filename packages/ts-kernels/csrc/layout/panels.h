// Rows of a checkpoint to the panels of packed.h, one panel at a time. Compiled once, for any machine: it moves words
// as fast as memory takes them without wide vectors.
#pragma once

#include "layout/packed.h"

namespace ts {

// Row of the source that becomes row `row` of `n`.
TS_INLINE i64 source_row(i64 row, i64 n, bool in_turn) {
  return !in_turn ? row : row < n / 2 ? 2 * row : 2 * row - n + 1;
}

// Codes of a weight's rows: `bytes` bytes of each are codes, four of which make a word that is combined with `flip`
// (exclusive or).
struct RowSource {
  const unsigned char* first;
  i64 stride, bytes, n;  // stride in bytes
  bool in_turn;
  u32 flip;
};

// Words [units][16] of one panel; what no code fills is zero. With `seek_nan`, whether a byte is e4m3's NaN, else
// false.
bool pack_panel(const RowSource& source, i64 panel, i64 units, bool seek_nan, u32* to);

// Words of one panel of a weight whose rows, not columns, are contiguous.
void pack_columns(const DenseSource& source, i64 panel, u32* to);

// Scales [groups][16] of one panel: fp32, or bf16 where they are stored in it or are powers of two. Whether all are
// finite.
bool pack_scales(const QuantizedSource& source, i64 panel, i64 groups, DType type, void* to);

// Zero points [groups][16] of one panel, of two's complement codes.
void pack_zeros(const QuantizedSource& source, i64 panel, i64 groups, float* to);

}  // namespace ts
