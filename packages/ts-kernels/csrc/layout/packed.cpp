#include "layout/packed.h"

#include <atomic>

#include "layout/panels.h"
#include "parallel/loop.h"

namespace ts {
namespace {

constexpr i64 kTaskBytes = 64 * 1024;  // written by one task

// Runs body(panel) for each panel of a weight that has `panel_words` words in each.
template <class Body>
void for_panels(Pool* pool, i64 n, i64 panel_words, const Body& body) {
  const i64 panels = ceil_div(n, kPanel), each = max_of(1, kTaskBytes / (panel_words * 4));
  const auto run = [&](i64 task) {
    for (i64 panel = task * each; panel < min_of((task + 1) * each, panels); ++panel) body(panel);
  };
  const i64 tasks = ceil_div(panels, each);
  if (!pool) {
    for (i64 task = 0; task < tasks; ++task) run(task);
    return;
  }
  // A core packs a few words while it does as many multiply-adds as the pool counts with.
  run_loop(*pool,
           {[](const void* context, i64 task) { (*static_cast<const decltype(run)*>(context))(task); }, &run, tasks},
           panels * panel_words * 8);
}

}  // namespace

PackedWeight::PackedWeight(Format format, i64 n, i64 k) {
  const i64 panels = ceil_div(n, kPanel),
            units = ceil_div(has_scales(format) ? round_up(k, kGroup) : k, unit_of(format));
  words_ = Buffer::for_weights(static_cast<std::size_t>(panels * units * kPanel * 4));
  view_ = {.format = format,
           .n = n,
           .k = k,
           .words = words_.as<u32>(),
           .panel_stride = units * kPanel,
           .row_stride = kPanel};
}

PackedWeight PackedWeight::room(const DenseSource& s, i64 n) {
  return {s.dtype == DType::f32 ? Format::f32 : Format::bf16, n, s.k};
}

void PackedWeight::fill(Pool* pool, const DenseSource& s, i64 first_row) {
  const i64 stride = view_.panel_stride, units = stride / kPanel, size = size_of(s.dtype);
  u32* words = words_.as<u32>() + first_row / kPanel * stride;
  if (s.column_stride != 1) {
    for_panels(pool, s.n, stride, [&](i64 panel) { pack_columns(s, panel, words + panel * stride); });
    return;
  }
  const RowSource rows{static_cast<const unsigned char*>(s.values), s.row_stride * size, s.k * size, s.n, s.in_turn, 0};
  for_panels(pool, s.n, stride, [&](i64 panel) { pack_panel(rows, panel, units, false, words + panel * stride); });
}

PackedWeight PackedWeight::dense(Pool* pool, const DenseSource& s) {
  PackedWeight packed = room(s, s.n);
  packed.fill(pool, s, 0);
  return packed;
}

PackedWeight PackedWeight::room(const QuantizedSource& s, i64 n) {
  PackedWeight packed(s.format, n, s.k);
  WeightView& view = packed.view_;
  const i64 groups = ceil_div(s.k, s.group), count = ceil_div(n, kPanel) * groups * kPanel;
  view.scale_type = s.scale_type == ScaleType::bf16 || s.scale_type == ScaleType::e8m0 ? DType::bf16 : DType::f32;
  packed.scales_ = Buffer::for_weights(static_cast<std::size_t>(count * size_of(view.scale_type)));
  if (s.zeros) packed.zeros_ = Buffer::for_weights(static_cast<std::size_t>(count) * sizeof(float));
  view.scales = packed.scales_.as<void>(), view.zeros = packed.zeros_.as<float>();
  view.scale_panel_stride = groups * kPanel, view.group = s.group;
  return packed;
}

void PackedWeight::fill(Pool* pool, const QuantizedSource& s, i64 first_row) {
  const WeightView& view = view_;
  const RowSource rows{s.codes, s.code_stride, ceil_div(s.k * 4, unit_of(s.format)), s.n, s.in_turn, s.flip};
  const i64 stride = view.panel_stride, units = stride / kPanel, first = first_row / kPanel;
  const i64 groups = view.scale_panel_stride / kPanel;
  std::atomic<bool> nan{false}, infinite{false};
  for_panels(pool, s.n, stride, [&](i64 panel) {
    u32* words = words_.as<u32>() + (first + panel) * stride;
    if (pack_panel(rows, panel, units, s.format == Format::fp8, words)) nan = true;
    const i64 at = (first + panel) * view.scale_panel_stride;
    if (!pack_scales(s, panel, groups, view.scale_type, ts::at(scales_.as<void>(), view.scale_type, at)))
      infinite = true;
    if (s.zeros) pack_zeros(s, panel, groups, zeros_.as<float>() + at);
  });
  // Runs are packed by several threads.
  if (nan) std::atomic_ref(has_nan_).store(true, std::memory_order_relaxed);
  if (infinite) std::atomic_ref(has_infinite_scale_).store(true, std::memory_order_relaxed);
}

PackedWeight PackedWeight::quantized(Pool* pool, const QuantizedSource& s) {
  PackedWeight packed = room(s, s.n);
  packed.fill(pool, s, 0);
  return packed;
}

namespace {

float float_of(u32 bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Code j of a word.
float code_of(Format format, u32 word, i64 j) {
  constexpr float magnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const u32 nibble = word >> (4 * j) & 15, byte = word >> (8 * (j % 4)) & 255;
  switch (format) {
    case Format::f32:
      return float_of(word);
    case Format::bf16:
      return bf16_to_float(static_cast<u16>(word >> (16 * j)));
    case Format::int4:
    case Format::int4_zero:
      return static_cast<float>(static_cast<i32>(nibble ^ 8) - 8);
    case Format::int8:
      return static_cast<float>(static_cast<i32>(byte ^ 128) - 128);
    case Format::fp8:
      return float_of((byte & 128) << 24 | (byte & 127) << 20) * 0x1p120f;
    case Format::fp4:
      return nibble & 8 ? -magnitudes[nibble & 7] : magnitudes[nibble];
  }
  return 0;
}

void set(float& to, float value) { to = value; }
void set(u16& to, float value) { to = float_to_bf16(value); }

template <class T>
void unpack_to(const WeightView& w, T* out) {
  const i64 unit = unit_of(w.format), codes = has_scales(w.format) ? i64{1} << (32 / unit) : 0;
  float table[256];
  for (i64 code = 0; code < codes; ++code) table[code] = code_of(w.format, static_cast<u32>(code), 0);
  for (i64 row = 0; row < w.n; ++row) {
    const i64 panel = row / kPanel, lane = row % kPanel;
    const u32* words = w.words + panel * w.panel_stride + lane;
    for (i64 k = 0; k < w.k; k += unit) {
      const u32 word = words[k / unit * kPanel];
      T* to = out + row * w.k + k;
      const i64 count = min_of(unit, w.k - k);
      if (!w.scales) {
        for (i64 j = 0; j < count; ++j) set(to[j], code_of(w.format, word, j));
        continue;
      }
      const i64 at = panel * w.scale_panel_stride + k / w.group * kPanel + lane;
      const float scale = load_scalar(w.scales, w.scale_type, at), zero = w.zeros ? w.zeros[at] : 0.0f;
      for (i64 j = 0; j < count; ++j) set(to[j], (table[word >> (32 / unit * j) & (codes - 1)] - zero) * scale);
    }
  }
}

}  // namespace

void PackedWeight::unpack(void* out, DType dtype) const {
  if (dtype == DType::f32) {
    unpack_to(view_, static_cast<float*>(out));
  } else {
    unpack_to(view_, static_cast<u16*>(out));
  }
}

void PackedWeight::set_bias(const float* bias) {
  bias_ = Buffer(static_cast<std::size_t>(view_.n) * sizeof(float));
  std::memcpy(bias_.as<float>(), bias, bias_.bytes());
  view_.bias = bias_.as<float>();
}

}  // namespace ts
