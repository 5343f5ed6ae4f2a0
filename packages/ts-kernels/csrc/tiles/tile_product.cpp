#include "tiles/tile_product.h"

#include "isa/tile.h"
#include "ops/ops.h"
#include "tiles/tile_weights.h"

namespace ts::TS_ISA {
namespace {

constexpr TileConfig kConfig = full_tiles();

// Gives the registers back when the thread ends.
struct Registers {
  Registers() { tile_configure(kConfig); }
  ~Registers() { tile_release(); }
};

// A thread's registers are configured once, and again where another library has used them since (oneDNN, inside torch,
// configures its own shapes and releases them).
void take_registers() {
  thread_local const Registers registers;
  TileConfig now;
  tile_configuration(now);
  if (std::memcmp(&now, &kConfig, sizeof now) != 0) tile_configure(kConfig);
}

void split_row(const void* x, DType dtype, i64 k, i64 stride, u16* high, u16* low) {
  for (i64 i = 0; i < k; i += W) {
    const vf v = load_as_float(x, dtype, i, k - i);
    store_as(high, DType::bf16, i, v, k - i);
    if (low) store_as(low, DType::bf16, i, v - load_as_float(high, DType::bf16, i, k - i), k - i);
  }
  std::memset(high + k, 0, static_cast<std::size_t>(stride - k) * 2);
  if (low) std::memset(low + k, 0, static_cast<std::size_t>(stride - k) * 2);
}

// Registers 0 to 3 hold the sums (two by two), 4 and 5 rows, 6 and 7 columns.
//
// The product of two low parts is left out: some 2^-17 of the whole, where the result will be rounded to 8 bits.
template <int kTall, int kWide>
void multiply_block(const TileRows& a, i64 first, const TileColumns& b, bool resume, float* out, i64 ldo) {
  const i64 out_bytes = ldo * 4, a_bytes = a.stride * 2;
  float* below = out + kTileRows * ldo;
  const auto sums = [&]<int T>(float* at) TS_LAMBDA { resume ? tile_load<T>(at, out_bytes) : tile_zero<T>(); };
  sums.template operator()<0>(out);
  if constexpr (kWide == 2) sums.template operator()<1>(out + kPanel);
  if constexpr (kTall == 2) sums.template operator()<2>(below);
  if constexpr (kTall == 2 && kWide == 2) sums.template operator()<3>(below + kPanel);
  for (i64 d = 0; d < b.depth; ++d)
    for (int part = 0; part < b.parts; ++part) {
      const u32* columns = b.words + part * b.part_stride + d * kTileWords;
      tile_load<6>(columns, kTileBytes);
      if constexpr (kWide == 2) tile_load<7>(columns + b.panel_stride, kTileBytes);
      for (int other = 0; other < (part == 0 ? a.parts : 1); ++other) {
        const u16* rows = a.values + other * a.part_stride + first + d * kTileDepth;
        tile_load<4>(rows, a_bytes);
        if constexpr (kTall == 2) tile_load<5>(rows + kTileRows * a.stride, a_bytes);
        tile_dot<0, 4, 6>();
        if constexpr (kWide == 2) tile_dot<1, 4, 7>();
        if constexpr (kTall == 2) tile_dot<2, 5, 6>();
        if constexpr (kTall == 2 && kWide == 2) tile_dot<3, 5, 7>();
      }
    }
  tile_store<0>(out, out_bytes);
  if constexpr (kWide == 2) tile_store<1>(out + kPanel, out_bytes);
  if constexpr (kTall == 2) tile_store<2>(below, out_bytes);
  if constexpr (kTall == 2 && kWide == 2) tile_store<3>(below + kPanel, out_bytes);
}

void copy_block(const float* from, i64 from_stride, float* to, i64 to_stride, i64 rows, i64 columns) {
  for (i64 row = 0; row < rows; ++row)
    std::memcpy(to + row * to_stride, from + row * from_stride, static_cast<std::size_t>(columns) * 4);
}

constexpr i64 kSide = 2 * kTileRows;  // rows and columns of a block
static_assert(kTileRows == kPanel);

// `rows` x `columns` of out, at most kSide of each; a block that is not of whole tiles is computed beside it.
void run_block(const TileRows& a, i64 first, const TileColumns& b, bool resume, float* out, i64 ldo, i64 rows,
               i64 columns) {
  const bool tall = rows > kTileRows, wide = columns > kPanel;
  const auto run = tall ? (wide ? multiply_block<2, 2> : multiply_block<2, 1>)
                        : (wide ? multiply_block<1, 2> : multiply_block<1, 1>);
  if (rows % kTileRows == 0 && columns % kPanel == 0) return run(a, first, b, resume, out, ldo);
  alignas(64) float beside[kSide * kSide] = {};
  if (resume) copy_block(out, ldo, beside, kSide, rows, columns);
  run(a, first, b, resume, beside, kSide);
  copy_block(beside, kSide, out, ldo, rows, columns);
}

}  // namespace

TileRows tile_rows(Pool* pool, const void* x, i64 x_stride, i64 rows, i64 k, DType dtype, int parts, Slot slot) {
  const i64 stride = round_up(k, kTileDepth), height = round_up(rows, kTileRows), part_stride = height * stride;
  u16* values = scratch_of<u16>(slot, parts * part_stride);
  const auto fill = [&](i64 task) {
    for (i64 row = task * kTileRows; row < (task + 1) * kTileRows; ++row) {
      u16 *high = values + row * stride, *low = parts == 2 ? high + part_stride : nullptr;
      split_row(at(x, dtype, row * x_stride), dtype, row < rows ? k : 0, stride, high, low);
    }
  };
  const i64 tasks = height / kTileRows;
  if (pool) {
    parallel(*pool, tasks, height * stride, fill);
  } else {
    for (i64 task = 0; task < tasks; ++task) fill(task);
  }
  return {values, stride, part_stride, parts};
}

void multiply_tiles(const WeightView& w, const TileRows& a, i64 row, i64 rows, i64 column, i64 columns, float* out,
                    i64 ldo) {
  constexpr i64 kDepth = 32;  // 1024 k of 256 rows and of 32 columns stay in a level-2 cache of 1 MiB
  take_registers();
  const i64 depth = ceil_div(w.k, kTileDepth);
  for (i64 from = 0; from < depth; from += kDepth)
    for (i64 c = 0; c < columns; c += kSide) {
      const i64 width = min_of(kSide, columns - c);
      const TileColumns b =
          tile_columns(w, (column + c) / kPanel, ceil_div(width, kPanel), from, min_of(kDepth, depth - from));
      for (i64 r = 0; r < rows; r += kSide)
        run_block(a, (row + r) * a.stride + from * kTileDepth, b, from > 0, out + r * ldo + c, ldo,
                  min_of(kSide, rows - r), width);
    }
}

}  // namespace ts::TS_ISA
