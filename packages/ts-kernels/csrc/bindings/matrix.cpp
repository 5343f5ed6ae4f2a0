// Linear layers, gated MLPs, routed experts.
#include <pybind11/stl.h>

#include <variant>

#include "bindings/checks.h"
#include "bindings/direct.h"
#include "layout/fp8.h"

namespace ts {

using namespace py::literals;

namespace {

struct Linear {
  PackedWeight weight;
};

struct Mlp {
  std::shared_ptr<Linear> gate_up, down;
};

using Linears = std::vector<std::shared_ptr<Linear>>;

struct ExpertSet {
  Experts experts;
  Linears gate_up, down;  // what `experts` looks at
};

void check_shape(i64 n, i64 k, i64 stride) {
  require(n > 0 && k > 0, "linear: n and k must be positive");
  require(stride >= k, "linear: weight_stride must be at least k");
}

// Rows of the weight `into` from `first` on, which `pack_runs` packs; where they lie must last until then.
struct Run {
  std::shared_ptr<Linear> into;
  i64 first;
  std::variant<DenseSource, QuantizedSource> source;
};

// `into` null: of a new weight of `total` rows.
template <class Source>
Run run_of(const Source& source, i64 first, i64 total, std::shared_ptr<Linear> into) {
  const i64 end = first + source.n;
  require(first >= 0 && first % kPanel == 0 && end <= total && (end == total || end % kPanel == 0),
          "linear: runs of rows must begin and end at multiples of 16");
  require(source.n == total || !source.in_turn, "linear: rows that lie in turn come all at once");
  if (!into) into = std::make_shared<Linear>(Linear{PackedWeight::room(source, total)});
  const WeightView& view = into->weight.view();
  require(view.n == total && view.k == source.k, "linear: runs must have the sizes of the first one");
  return {std::move(into), first, source};
}

// By the calling thread, as others pack more, without the interpreter's lock from the first to the last.
void pack_runs(const std::vector<Run>& runs) {
  py::gil_scoped_release release;
  for (const Run& run : runs)
    std::visit([&](const auto& source) { run.into->weight.fill(nullptr, source, run.first); }, run.source);
}

DenseSource dense_source(Address weight, i64 stride, int dtype, i64 n, i64 k, bool in_turn) {
  check_shape(n, k, stride);
  return {pointer(weight), stride, 1, dtype_of(dtype), n, k, in_turn};
}

// See QuantizedSource.
QuantizedSource quantized_source(int format, i64 n, i64 k, bool in_turn, Address codes, i64 code_stride, u32 flip,
                                 Address scales, int scale_type, i64 scale_stride, i64 scale_rows, i64 group,
                                 Address row_scales, i64 row_scale_stride, Address zeros, i64 zero_stride) {
  check_shape(n, k, k);
  require(format >= static_cast<int>(Format::int4) && format <= static_cast<int>(Format::fp4), "linear: bad format");
  require(scale_type >= 0 && scale_type <= static_cast<int>(ScaleType::e8m0), "linear: bad type of scales");
  require(group > 0, "linear: group must be positive");
  require(scale_rows > 0, "linear: scale_rows must be positive");
  const QuantizedSource source{static_cast<Format>(format),
                               n,
                               k,
                               in_turn,
                               pointer<const unsigned char>(codes),
                               code_stride,
                               flip,
                               pointer(scales),
                               static_cast<ScaleType>(scale_type),
                               scale_stride,
                               scale_rows,
                               group,
                               pointer<const float>(row_scales),
                               row_scale_stride,
                               pointer<const u32>(zeros),
                               zero_stride};
  require((source.format == Format::int4_zero) == (source.zeros != nullptr), "linear: zero points are INT4's alone");
  require(group % 32 == 0 || (source.format == Format::fp4 && group == 16),
          "linear: group must be a multiple of 32, or 16 with FP4");
  return source;
}

void bind_linear(py::module_& m, Engine& engine) {
  py::class_<Linear, std::shared_ptr<Linear>>(m, "PackedLinear")
      .def(py::init([&engine](Address weight, i64 stride, int dtype, i64 n, i64 k, bool in_turn) {
             const DenseSource source = dense_source(weight, stride, dtype, n, k, in_turn);
             py::gil_scoped_release release;
             return std::make_shared<Linear>(Linear{PackedWeight::dense(&engine.pool(), source)});
           }),
           "weight"_a, "weight_stride"_a, "weight_dtype"_a, "n"_a, "k"_a, "in_turn"_a = false)
      .def_static(
          "from_quantized",
          [&engine](int format, i64 n, i64 k, bool in_turn, Address codes, i64 code_stride, u32 flip, Address scales,
                    int scale_type, i64 scale_stride, i64 scale_rows, i64 group, Address row_scales,
                    i64 row_scale_stride, Address zeros, i64 zero_stride) {
            const QuantizedSource source =
                quantized_source(format, n, k, in_turn, codes, code_stride, flip, scales, scale_type, scale_stride,
                                 scale_rows, group, row_scales, row_scale_stride, zeros, zero_stride);
            py::gil_scoped_release release;
            return std::make_shared<Linear>(Linear{PackedWeight::quantized(&engine.pool(), source)});
          },
          "format"_a, "n"_a, "k"_a, "in_turn"_a, "codes"_a, "code_stride"_a, "flip"_a, "scales"_a, "scale_type"_a,
          "scale_stride"_a, "scale_rows"_a, "group"_a, "row_scales"_a, "row_scale_stride"_a, "zeros"_a, "zero_stride"_a)
      .def("set_bias", [](Linear& l, Address bias) { l.weight.set_bias(pointer<const float>(bias)); })
      .def("unpack",
           [](const Linear& l, Address out, int out_dtype) {
             const DType dtype = dtype_of(out_dtype);
             py::gil_scoped_release release;
             l.weight.unpack(pointer(out), dtype);
           })
      .def_property_readonly("has_nan", [](const Linear& l) { return l.weight.has_nan(); })
      .def_property_readonly("has_infinite_scale", [](const Linear& l) { return l.weight.has_infinite_scale(); })
      .def_property_readonly("n", [](const Linear& l) { return l.weight.view().n; })
      .def_property_readonly("k", [](const Linear& l) { return l.weight.view().k; })
      .def_property_readonly("nbytes", [](const Linear& l) { return l.weight.nbytes(); })
      .def("run",
           [&engine](const Linear& l, Address x, i64 x_stride, i64 rows, int dtype, Address out, i64 out_stride,
                     int out_dtype) {
             const WeightView& w = l.weight.view();
             engine.run<LinearArgs>(
                 &KernelTable::linear,
                 {pointer(x), x_stride, rows, dtype_of(dtype), &w, pointer(out), out_stride, dtype_of(out_dtype)},
                 rows * w.n * w.k);
           })
      .def("direct", [&engine](const Linear& l, py::handle x_, int out_code) {
        const WeightView& w = l.weight.view();
        direct::View x;
        if (!direct::View::read(x_, x) || !x.matrix(w.k) || !x.is_float()) return direct::declined();
        const DType out_dtype = out_code < 0 ? x.code() : dtype_of(out_code);
        direct::Fresh out =
            direct::fresh({x.size(0), w.n}, out_dtype == DType::f32 ? dlpack::kFloat32 : dlpack::kBFloat16);
        engine.run<LinearArgs>(&KernelTable::linear,
                               {x.data(), x.stride(0), x.size(0), x.code(), &w, out.data, w.n, out_dtype},
                               x.size(0) * w.n * w.k);
        return std::move(out.object);
      });
  m.def("linear", [&engine](Address x, i64 x_stride, i64 rows, int dtype, Address weight, i64 stride, int weight_dtype,
                            i64 n, i64 k, Address out, i64 out_stride, int out_dtype) {
    check_shape(n, k, stride);
    const PackedWeight w =
        PackedWeight::dense(&engine.pool(), {pointer(weight), stride, 1, dtype_of(weight_dtype), n, k});
    engine.run<LinearArgs>(
        &KernelTable::linear,
        {pointer(x), x_stride, rows, dtype_of(dtype), &w.view(), pointer(out), out_stride, dtype_of(out_dtype)},
        rows * n * k);
  });
}

void bind_runs(py::module_& m) {
  py::class_<Run>(m, "Run")
      .def_static(
          "of_rows",
          [](Address weight, i64 stride, int dtype, i64 n, i64 k, bool in_turn, i64 first, i64 total,
             std::shared_ptr<Linear> into) {
            const DenseSource source = dense_source(weight, stride, dtype, n, k, in_turn);
            require(!into || into->weight.view().format == (source.dtype == DType::f32 ? Format::f32 : Format::bf16),
                    "linear: runs must be of one type");
            return run_of(source, first, total, std::move(into));
          },
          "weight"_a, "weight_stride"_a, "weight_dtype"_a, "n"_a, "k"_a, "in_turn"_a, "first"_a, "total"_a, "into"_a)
      .def_static(
          "of_quantized",
          [](int format, i64 n, i64 k, bool in_turn, Address codes, i64 code_stride, u32 flip, Address scales,
             int scale_type, i64 scale_stride, i64 scale_rows, i64 group, Address row_scales, i64 row_scale_stride,
             Address zeros, i64 zero_stride, i64 first, i64 total, std::shared_ptr<Linear> into) {
            const QuantizedSource source =
                quantized_source(format, n, k, in_turn, codes, code_stride, flip, scales, scale_type, scale_stride,
                                 scale_rows, group, row_scales, row_scale_stride, zeros, zero_stride);
            if (into) {
              const WeightView& view = into->weight.view();
              const bool halves = source.scale_type == ScaleType::bf16 || source.scale_type == ScaleType::e8m0;
              require(view.format == source.format && view.group == group &&
                          view.scale_type == (halves ? DType::bf16 : DType::f32),
                      "linear: runs must be of one type");
            }
            return run_of(source, first, total, std::move(into));
          },
          "format"_a, "n"_a, "k"_a, "in_turn"_a, "codes"_a, "code_stride"_a, "flip"_a, "scales"_a, "scale_type"_a,
          "scale_stride"_a, "scale_rows"_a, "group"_a, "row_scales"_a, "row_scale_stride"_a, "zeros"_a, "zero_stride"_a,
          "first"_a, "total"_a, "into"_a)
      .def_readonly("into", &Run::into);
  m.def("pack_runs", &pack_runs);
}

void bind_mlp(py::module_& m, Engine& engine) {
  py::class_<Mlp>(m, "PackedMlp")
      .def(py::init([](std::shared_ptr<Linear> gate_up, std::shared_ptr<Linear> down) {
        const WeightView &up = gate_up->weight.view(), &out = down->weight.view();
        require(up.n == 2 * out.k && up.k == out.n,
                "PackedMlp: gate_up must be [2 * inter, dim] and down [dim, inter]");
        return Mlp{std::move(gate_up), std::move(down)};
      }))
      .def("run",
           [&engine](const Mlp& mlp, Address x, i64 x_stride, i64 rows, int dtype, Address out) {
             const WeightView &up = mlp.gate_up->weight.view(), &down = mlp.down->weight.view();
             engine.run<MlpArgs>(&KernelTable::mlp,
                                 {pointer(x), x_stride, rows, dtype_of(dtype), &up, &down, pointer(out)},
                                 rows * up.k * up.n);
           })
      .def("direct", [&engine](const Mlp& mlp, py::handle x_) {
        const WeightView &up = mlp.gate_up->weight.view(), &down = mlp.down->weight.view();
        direct::View x;
        if (!direct::View::read(x_, x) || !x.matrix(up.k) || !x.is_float()) return direct::declined();
        direct::Fresh out = direct::fresh({x.size(0), down.n}, x.dtype());
        engine.run<MlpArgs>(&KernelTable::mlp, {x.data(), x.stride(0), x.size(0), x.code(), &up, &down, out.data},
                            x.size(0) * up.k * up.n);
        return std::move(out.object);
      });
}

ExpertSet joined_experts(Linears gate_up, Linears down) {
  require(!down.empty() && gate_up.size() == down.size(), "experts: as many gate_up as down, and at least one");
  ExpertSet set;
  set.experts.inter = down[0]->weight.view().k;
  set.experts.dim = down[0]->weight.view().n;
  for (std::size_t e = 0; e < down.size(); ++e) {
    const WeightView &up = gate_up[e]->weight.view(), &low = down[e]->weight.view();
    require(up.n == 2 * set.experts.inter && up.k == set.experts.dim && low.n == set.experts.dim &&
                low.k == set.experts.inter,
            "experts: gate_up must be [2 * inter, dim] and down [dim, inter], alike for all");
    set.experts.gate_up.push_back(up);
    set.experts.down.push_back(low);
  }
  set.gate_up = std::move(gate_up), set.down = std::move(down);
  return set;
}

i64 bytes_of(const ExpertSet& set) {
  i64 total = 0;
  for (const Linears* linears : {&set.gate_up, &set.down})
    for (const auto& linear : *linears) total += linear->weight.nbytes();
  return total;
}

std::vector<float> floats(Address values, std::size_t count) {
  const float* first = pointer<const float>(values);
  return first ? std::vector<float>(first, first + count) : std::vector<float>{};
}

void configure(ExpertSet& set, int gate, float alpha, float limit, Address gate_up_bias, Address down_bias) {
  Experts& e = set.experts;
  const std::size_t count = e.gate_up.size();
  e.activation = activation_of(gate, alpha, limit);
  e.gate_up_bias = floats(gate_up_bias, count * 2 * static_cast<std::size_t>(e.inter));
  e.down_bias = floats(down_bias, count * static_cast<std::size_t>(e.dim));
}

void bind_experts(py::module_& m, Engine& engine) {
  py::class_<ExpertSet>(m, "PackedExperts")
      .def(py::init(&joined_experts), "gate_up"_a, "down"_a)
      .def_property_readonly("nbytes", &bytes_of)
      .def("configure", &configure)
      .def("run",
           [&engine](const ExpertSet& set, Address x, i64 x_stride, i64 rows, int dtype, Address weights, Address ids,
                     i64 top_k, const Mlp* shared, Address out) {
             require(top_k >= 1, "experts: top_k must be positive");
             const WeightView* gate_up = shared ? &shared->gate_up->weight.view() : nullptr;
             const WeightView* down = shared ? &shared->down->weight.view() : nullptr;
             require(!down || down->n == set.experts.dim, "experts: the shared expert's dim differs");
             engine.run<ExpertsArgs>(
                 &KernelTable::experts,
                 {pointer(x), x_stride, rows, dtype_of(dtype), &set.experts, pointer<const float>(weights),
                  pointer<const i32>(ids), top_k, gate_up, down, pointer(out)},
                 rows * top_k * set.experts.inter * set.experts.dim * 3);
           })
      .def("direct",
           [&engine](const ExpertSet& set, py::handle x_, py::handle weights_, py::handle ids_, const Mlp* shared) {
             direct::View x, weights, ids;
             const i64 dim = set.experts.dim, inter = set.experts.inter;
             if (!direct::read({x_, weights_, ids_}, x, weights, ids) || !x.matrix(dim) || !x.is_float() ||
                 weights.rank() != 2)
               return direct::declined();
             const i64 rows = x.size(0), top_k = weights.size(1);
             if (top_k < 1 || !weights.dense(rows, top_k) || !weights.is(dlpack::kFloat32) || !ids.dense(rows, top_k) ||
                 !ids.is(dlpack::kInt32))
               return direct::declined();
             const WeightView* gate_up = shared ? &shared->gate_up->weight.view() : nullptr;
             const WeightView* down = shared ? &shared->down->weight.view() : nullptr;
             if (down && down->n != dim) return direct::declined();
             direct::Fresh out = direct::fresh({rows, dim}, x.dtype());
             engine.run<ExpertsArgs>(&KernelTable::experts,
                                     {x.data(), x.stride(0), rows, x.code(), &set.experts, weights.data<float>(),
                                      ids.data<i32>(), top_k, gate_up, down, out.data},
                                     rows * top_k * inter * dim * 3);
             return std::move(out.object);
           });
}

}  // namespace

void bind_matrix(py::module_& m, Engine& engine) {
  m.def("quantize_fp8",
        [](Address x, i64 x_stride, i64 rows, i64 dim, int dtype, i64 group, Address values, Address scales) {
          require(group > 0, "quantize_fp8: group must be positive");
          const Fp8Args args{pointer(x),
                             x_stride,
                             rows,
                             dim,
                             dtype_of(dtype),
                             group,
                             pointer<unsigned char>(values),
                             pointer<float>(scales)};
          py::gil_scoped_release release;
          quantize_fp8(args);
        });
  bind_linear(m, engine);
  bind_runs(m);
  bind_mlp(m, engine);
  bind_experts(m, engine);
}

}  // namespace ts
