// Each pair's row times the matrix of its expert, from weights as checkpoints have them.
//
// A strip of columns is brought to the packed layout in scratch,
// where the tiles of the linear layers meet it before it leaves the level-2 cache: every weight is read once for up to
// kRows rows, and no packed copy is kept.
#include "ops/gemm.h"
#include "ops/ops.h"

namespace ts::TS_ISA {
namespace {

constexpr i64 kRows = 256;               // rows at a time: they stay in the level-2 cache while the strips pass by
constexpr i64 kStripBytes = 256 * 1024;  // packed words of a strip, where a strip of two panels does not have more
constexpr i64 kWidest = 8;               // panels of a strip: the widest tile

struct Layout {
  i64 bytes, units;  // of a row: bytes of codes, words of the packed form
  i64 groups;        // of scales
};

TS_INLINE Layout layout_of(const WeightView& w) {
  const i64 unit = unit_of(w.format), k = has_scales(w.format) ? round_up(w.k, kGroup) : w.k;
  return {ceil_div(w.k * 4, unit), ceil_div(k, unit), w.group > 0 ? ceil_div(w.k, w.group) : 0};
}

// Words [first, end) of `rows` rows as columns of a panel, word by word; the last may be cut short.
void turn_words(const char* from, i64 row_bytes, i64 bytes, i64 rows, i64 first, u32 flip, u32* to) {
  for (i64 row = 0; row < rows; ++row)
    for (i64 word = first; word * 4 < bytes; ++word) {
      u32 value = flip;
      std::memcpy(&value, from + row * row_bytes + word * 4, static_cast<std::size_t>(min_of(4, bytes - word * 4)));
      to[word * kPanel + row] = value;
    }
}

// Rows of one panel to its words. In blocks of whole vectors where rows lie at whole words.
void turn_panel(const GroupedArgs& a, const Layout& l, const char* from, i64 rows, u32* to) {
  std::memset(to, 0, static_cast<std::size_t>(l.units * kPanel) * 4);
  i64 word = 0;
  if (rows == kPanel && a.row_bytes % 4 == 0 && reinterpret_cast<std::uintptr_t>(from) % 4 == 0)
    for (; (word + W) * 4 <= l.bytes; word += W)
      for (i64 row = 0; row < kPanel; row += W)
        transpose_block(reinterpret_cast<const float*>(from + row * a.row_bytes) + word, a.row_bytes / 4,
                        reinterpret_cast<float*>(to + word * kPanel + row), kPanel);
  turn_words(from, a.row_bytes, l.bytes, rows, word, a.flip, to);
  if (a.flip)
    for (i64 i = 0; i < ceil_div(l.bytes, 4) * kPanel; ++i) to[i] ^= a.flip;
}

// Whether a word holds a byte 0x7f or 0xff, which is NaN in e4m3.
bool any_nan(const u32* words, i64 count) {
  u32 found = 0;
  for (i64 i = 0; i < count; ++i) found |= (words[i] & 0x7f7f7f7fu) + 0x01010101u;
  return (found & 0x80808080u) != 0;
}

// [rows][groups] to [groups][16].
template <class T>
TS_INLINE void turn_factors(const T* from, i64 rows, i64 groups, T* to) {
  for (i64 g = 0; g < groups; ++g)
    for (i64 row = 0; row < kPanel; ++row) to[g * kPanel + row] = row < rows ? from[row * groups + g] : T{};
}

// Columns [column, column + columns) of an expert's weight, packed in scratch of the calling thread.
WeightView pack_strip(const GroupedArgs& a, const ExpertSource& source, i64 column, i64 columns) {
  const Layout l = layout_of(a.form);
  const i64 panels = ceil_div(columns, kPanel), words = l.units * kPanel, factors = l.groups * kPanel;
  u32* to = scratch_of<u32>(Slot::hidden, panels * words);
  float* scales = scratch_of<float>(Slot::activated, 2 * panels * factors + 1);
  float* zeros = source.zeros ? scales + panels * factors : nullptr;
  for (i64 p = 0; p < panels; ++p) {
    const i64 row = column + p * kPanel, rows = min_of(kPanel, column + columns - row);
    turn_panel(a, l, source.codes + row * a.row_bytes, rows, to + p * words);
    if (l.groups == 0) continue;
    if (a.form.scale_type == DType::f32) {
      turn_factors(static_cast<const float*>(source.scales) + row * l.groups, rows, l.groups, scales + p * factors);
    } else {
      turn_factors(static_cast<const u16*>(source.scales) + row * l.groups, rows, l.groups,
                   reinterpret_cast<u16*>(scales) + p * factors);
    }
    if (zeros) turn_factors(source.zeros + row * l.groups, rows, l.groups, zeros + p * factors);
  }
  if (a.form.format == Format::fp8 && any_nan(to, panels * words))
    __atomic_store_n(a.not_finite, true, __ATOMIC_RELAXED);
  WeightView w = a.form;
  w.n = columns, w.words = to, w.panel_stride = words, w.row_stride = kPanel;
  if (l.groups > 0) w.scales = scales, w.scale_panel_stride = factors, w.zeros = zeros;
  return w;
}

// `rows` rows of one expert, whose pairs these are.
void multiply_expert(Pool& pool, const GroupedArgs& a, const ExpertSource& source, const i32* pairs, i64 rows) {
  const i64 n = a.form.n, k = a.form.k, bytes = k * size_of(a.dtype);
  char* gathered = scratch_of<char>(Slot::gathered, rows * bytes);
  for (i64 i = 0; i < rows; ++i)
    std::memcpy(gathered + i * bytes, at(a.x, a.dtype, pairs[i] / a.top_k * a.x_stride),
                static_cast<std::size_t>(bytes));
  const Rows x = rows_for(&pool, a.form, {gathered, k, rows, a.dtype, a.dtype}, Slot::rows_in);
  const i64 panel_bytes = layout_of(a.form).units * kPanel * 4;
  const i64 strip = kPanel * min_of(kWidest, max_of(2, kStripBytes / panel_bytes));
  parallel(pool, ceil_div(n, strip), rows * n * k, [&](i64 task) {
    const i64 column = task * strip, columns = min_of(strip, n - column);
    const WeightView w = pack_strip(a, source, column, columns);
    float* tile = scratch_of<float>(Slot::tile_out, rows * columns);
    multiply_rows(w, x, 0, rows, 0, columns, tile, columns);
    for (i64 i = 0; i < rows; ++i)
      write_rows(tile + i * columns, columns, 1, columns, at(a.out, a.dtype, pairs[i] * n + column), n, a.dtype);
  });
}

}  // namespace

void grouped_linear(Pool& pool, const GroupedArgs& a) {
  const i64 row = a.form.n * size_of(a.dtype);
  for (i64 i = 0; i < a.tokens * a.top_k; ++i)
    if (a.ids[i] < 0 || a.ids[i] >= a.experts)
      std::memset(static_cast<char*>(a.out) + i * row, 0, static_cast<std::size_t>(row));
  for (i64 e = 0; e < a.experts; ++e)
    for (i64 first = a.starts[e]; first < a.starts[e + 1]; first += kRows)
      multiply_expert(pool, a, a.sources[e], a.pairs + first, min_of(kRows, a.starts[e + 1] - first));
}

}  // namespace ts::TS_ISA
