#include "isa/self_check.h"

#include <vector>

#include "parallel/pool.h"

namespace ts {
namespace {

constexpr i64 kRows = 41, kColumns = 50, kDepth = 1120;  // past one block of rows, columns and depth, with remainders

// Whole numbers from -15 to 15, without order.
struct Numbers {
  u64 state = 1;
  int next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int>(state >> 33) % 16 * (state >> 63 ? 1 : -1);
  }
};

std::vector<u16> bf16_numbers(Numbers& numbers, i64 count, int factor = 1) {
  std::vector<u16> values(static_cast<std::size_t>(count));
  for (u16& value : values) value = float_to_bf16(static_cast<float>(factor * numbers.next()));
  return values;
}

// Scales of all 8 bits, so that a nibble times its scale takes two bf16 numbers.
PackedWeight int4_numbers(Numbers& numbers) {
  std::vector<u32> words(kColumns * kDepth / 8);
  for (u32& word : words)
    for (int nibble = 0; nibble < 8; ++nibble) word = word << 4 | static_cast<u32>(numbers.next() & 15);
  const std::vector<u16> scales = bf16_numbers(numbers, kColumns * kDepth / kGroup, 17);
  return PackedWeight::quantized(nullptr, {.format = Format::int4,
                                           .n = kColumns,
                                           .k = kDepth,
                                           .in_turn = false,
                                           .codes = reinterpret_cast<const unsigned char*>(words.data()),
                                           .code_stride = kDepth / 2,
                                           .flip = 0,
                                           .scales = scales.data(),
                                           .scale_type = ScaleType::bf16,
                                           .scale_stride = kDepth / kGroup,
                                           .scale_rows = 1,
                                           .group = kGroup,
                                           .row_scales = nullptr,
                                           .row_scale_stride = 0,
                                           .zeros = nullptr,
                                           .zero_stride = 0});
}

std::vector<float> product(const KernelTable& table, const std::vector<u16>& x, const PackedWeight& weight, i64 rows) {
  Pool alone(1, 0);
  std::vector<float> out(static_cast<std::size_t>(rows * kColumns));
  const i64 stride = static_cast<i64>(x.size()) / kRows;
  table.linear(alone, {x.data(), stride, rows, DType::bf16, &weight.view(), out.data(), kColumns, DType::f32});
  return out;
}

}  // namespace

bool same_products(const KernelTable& trusted, const KernelTable& checked) {
  Numbers numbers;
  const std::vector<u16> x = bf16_numbers(numbers, kRows * kDepth);
  const i64 ragged = kDepth - 3;
  const std::vector<u16> dense = bf16_numbers(numbers, kColumns * kDepth);
  PackedWeight weights[] = {PackedWeight::dense(nullptr, {dense.data(), kDepth, 1, DType::bf16, kColumns, kDepth}),
                            PackedWeight::dense(nullptr, {dense.data(), kDepth, 1, DType::bf16, kColumns, ragged}),
                            int4_numbers(numbers)};
  for (const PackedWeight& weight : weights)
    for (const i64 rows : {i64{1}, i64{16}, kRows})
      if (product(trusted, x, weight, rows) != product(checked, x, weight, rows)) return false;
  return true;
}

}  // namespace ts
