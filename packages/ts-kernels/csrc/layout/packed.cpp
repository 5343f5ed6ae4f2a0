#include "layout/packed.h"

namespace ts {

PackedWeight::PackedWeight(Format format, i64 n, i64 k) {
  const i64 panels = ceil_div(n, kPanel),
            units = ceil_div(has_scales(format) ? round_up(k, kGroup) : k, unit_of(format));
  words_ = Buffer(static_cast<std::size_t>(panels * units * kPanel * 4));
  view_ = {.format = format,
           .n = n,
           .k = k,
           .words = words_.as<u32>(),
           .panel_stride = units * kPanel,
           .row_stride = kPanel};
}

PackedWeight PackedWeight::dense(const void* weight, i64 row_stride, i64 column_stride, DType dtype, i64 n, i64 k) {
  PackedWeight packed(dtype == DType::f32 ? Format::f32 : Format::bf16, n, k);
  u32* words = packed.words_.as<u32>();
  for (i64 row = 0; row < n; ++row) {
    u32* column = words + row / kPanel * packed.view_.panel_stride + row % kPanel;
    for (i64 i = 0; i < k; ++i) {
      const i64 from = row * row_stride + i * column_stride;
      if (dtype == DType::f32) {
        column[i * kPanel] = static_cast<const u32*>(weight)[from];
      } else {
        column[i / 2 * kPanel] |= static_cast<u32>(static_cast<const u16*>(weight)[from]) << (16 * (i % 2));
      }
    }
  }
  return packed;
}

namespace {

// [n, groups] to [panel][groups][16].
template <class T>
void pack_factors(const T* from, i64 n, i64 groups, T* to) {
  for (i64 row = 0; row < n; ++row)
    for (i64 g = 0; g < groups; ++g) to[(row / kPanel * groups + g) * kPanel + row % kPanel] = from[row * groups + g];
}

}  // namespace

PackedWeight PackedWeight::quantized(const QuantizedSource& source) {
  PackedWeight packed(source.format, source.n, source.k);
  WeightView& view = packed.view_;
  const i64 row_bytes = ceil_div(source.k * 4, unit_of(source.format));
  u32* words = packed.words_.as<u32>();
  for (i64 row = 0; row < source.n; ++row) {
    const unsigned char* codes = source.codes + row * row_bytes;
    u32* column = words + row / kPanel * view.panel_stride + row % kPanel;
    for (i64 byte = 0; byte < row_bytes; byte += 4) {
      u32 word = source.flip;
      std::memcpy(&word, codes + byte, static_cast<std::size_t>(min_of(4, row_bytes - byte)));
      column[byte / 4 * kPanel] = word ^ source.flip;
    }
  }
  const i64 groups = ceil_div(source.k, source.group), count = ceil_div(source.n, kPanel) * groups * kPanel;
  packed.scales_ = Buffer(static_cast<std::size_t>(count * size_of(source.scale_type)));
  if (source.scale_type == DType::f32) {
    pack_factors(static_cast<const float*>(source.scales), source.n, groups, packed.scales_.as<float>());
  } else {
    pack_factors(static_cast<const u16*>(source.scales), source.n, groups, packed.scales_.as<u16>());
  }
  if (source.zeros) {
    packed.zeros_ = Buffer(static_cast<std::size_t>(count) * sizeof(float));
    pack_factors(source.zeros, source.n, groups, packed.zeros_.as<float>());
  }
  view.scales = packed.scales_.as<void>(), view.scale_type = source.scale_type;
  view.scale_panel_stride = groups * kPanel, view.group = source.group, view.zeros = packed.zeros_.as<float>();
  return packed;
}

PackedWeight PackedWeight::int4(const u32* source, const u16* scales, i64 n, i64 k) {
  return quantized({Format::int4, n, k, kGroup, reinterpret_cast<const unsigned char*>(source), 0x88888888u, scales,
                    DType::bf16, nullptr});
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

}  // namespace

void PackedWeight::unpack(float* out) const {
  const WeightView& w = view_;
  const i64 unit = unit_of(w.format);
  for (i64 row = 0; row < w.n; ++row)
    for (i64 k = 0; k < w.k; ++k) {
      const i64 panel = row / kPanel, lane = row % kPanel;
      float value = code_of(w.format, w.words[panel * w.panel_stride + k / unit * kPanel + lane], k % unit);
      if (w.scales) {
        const i64 at = panel * w.scale_panel_stride + k / w.group * kPanel + lane;
        value = (value - (w.zeros ? w.zeros[at] : 0.0f)) * load_scalar(w.scales, w.scale_type, at);
      }
      out[row * w.k + k] = value;
    }
}

void PackedWeight::set_bias(const float* bias) {
  bias_ = Buffer(static_cast<std::size_t>(view_.n) * sizeof(float));
  std::memcpy(bias_.as<float>(), bias, bias_.bytes());
  view_.bias = bias_.as<float>();
}

}  // namespace ts
