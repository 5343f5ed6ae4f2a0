// Merging partial attention, and the steps of an expert layer one by one.
#include <pybind11/stl.h>

#include "bindings/direct.h"
#include "layout/permutation.h"

namespace ts {
namespace {

using direct::declined;
using direct::View;

i64 work_of(const MergeArgs& a) { return a.parts * a.tokens * a.heads * (a.v + 16); }

void bind_merge(py::module_& m, Engine& engine) {
  m.def("merge", [&engine](Address outs, i64 part_stride, i64 token_stride, int type, Address lses, i64 lse_part_stride,
                           i64 lse_token_stride, i64 parts, i64 tokens, i64 heads, i64 v, Address out, Address lse) {
    require(type >= 0 && type <= static_cast<int>(PartType::f16), "merge: outs are fp32 (0), bf16 (1) or fp16 (2)");
    require(parts > 0 && heads > 0 && v >= 0, "merge: there must be a part and a head");
    const MergeArgs args{pointer(outs),
                         part_stride,
                         token_stride,
                         static_cast<PartType>(type),
                         pointer<const float>(lses),
                         lse_part_stride,
                         lse_token_stride,
                         parts,
                         tokens,
                         heads,
                         v,
                         pointer(out),
                         pointer<float>(lse)};
    engine.run<MergeArgs>(&KernelTable::merge, args, work_of(args));
  });
  m.def("direct_merge", [&engine](py::handle outs_, py::handle lses_) -> py::object {
    View outs, lses;
    if (!direct::read({outs_, lses_}, outs, lses) || outs.rank() != 3 || lses.rank() != 3 ||
        !(outs.is_float() || outs.is(dlpack::kFloat16)) || !lses.is(dlpack::kFloat32) || outs.stride(2) != 1 ||
        lses.stride(2) != 1)
      return declined();
    const i64 parts = lses.size(0), tokens = lses.size(1), heads = lses.size(2);
    if (parts < 1 || heads < 1 || outs.size(0) != parts || outs.size(1) != tokens || outs.size(2) % heads)
      return declined();
    const PartType type = outs.is(dlpack::kFloat16)   ? PartType::f16
                          : outs.is(dlpack::kFloat32) ? PartType::f32
                                                      : PartType::bf16;
    direct::Fresh out = direct::fresh({tokens, outs.size(2)}, outs.dtype()),
                  lse = direct::fresh({tokens, heads}, dlpack::kFloat32);
    const MergeArgs args{outs.data(),
                         outs.stride(0),
                         outs.stride(1),
                         type,
                         lses.data<float>(),
                         lses.stride(0),
                         lses.stride(1),
                         parts,
                         tokens,
                         heads,
                         outs.size(2) / heads,
                         out.data,
                         static_cast<float*>(lse.data)};
    engine.run<MergeArgs>(&KernelTable::merge, args, work_of(args));
    return py::make_tuple(std::move(out.object), std::move(lse.object));
  });
}

void bind_permute(py::module_& m) {
  m.def("permute", [](Address ids, i64 count, i64 experts, i64 block, i64 capacity, Address pairs, Address offsets,
                      Address blocks) {
    require(experts > 0 && block > 0, "permute: experts and block must be positive");
    require(capacity == capacity_of(count, experts, block), "permute: capacity must be that of the sizes");
    sort_pairs({pointer<const i32>(ids), count, experts, block, capacity, pointer<i32>(pairs), pointer<i32>(offsets),
                pointer<i32>(blocks)});
  });
  m.def("direct_permute", [](py::handle ids_, i64 experts, i64 block) -> py::object {
    View ids;
    if (!View::read(ids_, ids) || ids.rank() != 2 || !ids.is(dlpack::kInt32) || !ids.dense(ids.size(0), ids.size(1)) ||
        experts < 1 || block < 1)
      return declined();
    const i64 count = ids.size(0) * ids.size(1), capacity = capacity_of(count, experts, block);
    direct::Fresh pairs = direct::fresh({capacity}, dlpack::kInt32),
                  offsets = direct::fresh({experts + 1}, dlpack::kInt32),
                  blocks = direct::fresh({capacity / block}, dlpack::kInt32);
    sort_pairs({ids.data<i32>(), count, experts, block, capacity, static_cast<i32*>(pairs.data),
                static_cast<i32*>(offsets.data), static_cast<i32*>(blocks.data)});
    return py::make_tuple(std::move(pairs.object), std::move(offsets.object), std::move(blocks.object));
  });
}

void bind_combine(py::module_& m, Engine& engine) {
  m.def("combine", [&engine](Address values, int dtype, i64 tokens, i64 top_k, i64 dim, i64 experts, Address weights,
                             Address ids, Address base, i64 base_stride, Address out) {
    engine.run<CombineArgs>(
        &KernelTable::combine,
        {pointer(values), dtype_of(dtype), tokens, top_k, dim, experts, pointer<const float>(weights),
         pointer<const i32>(ids), pointer(base), base_stride, pointer(out)},
        tokens * top_k * dim);
  });
  m.def("direct_combine", [&engine](py::handle values_, py::handle weights_, py::handle ids_, i64 experts,
                                    py::handle base_) {
    View values, weights, ids, base;
    if (!direct::read({values_, weights_, ids_}, values, weights, ids) || values.rank() != 3 || !values.is_float() ||
        !values.dense3())
      return declined();
    const i64 tokens = values.size(0), top_k = values.size(1), dim = values.size(2);
    if (!weights.dense(tokens, top_k) || !weights.is(dlpack::kFloat32) || !ids.dense(tokens, top_k) ||
        !ids.is(dlpack::kInt32))
      return declined();
    const bool based = !base_.is_none();
    if (based && (!View::read(base_, base) || !base.matrix(dim) || base.size(0) != tokens || !base.is(values.dtype())))
      return declined();
    direct::Fresh out = direct::fresh({tokens, dim}, values.dtype());
    engine.run<CombineArgs>(&KernelTable::combine,
                            {values.data(), values.code(), tokens, top_k, dim, experts, weights.data<float>(),
                             ids.data<i32>(), based ? base.data() : nullptr, based ? base.stride(0) : 0, out.data},
                            tokens * top_k * dim);
    return std::move(out.object);
  });
}

using Sources = std::vector<std::tuple<Address, Address, Address>>;

void bind_grouped(py::module_& m, Engine& engine) {
  m.def("grouped_linear", [&engine](Address x, i64 x_stride, i64 tokens, int dtype, Address ids, i64 top_k,
                                    Address pairs, Address starts, const Sources& sources, int format, i64 n, i64 k,
                                    i64 group, int scale_dtype, i64 row_bytes, u32 flip, Address out) {
    require(n > 0 && k > 0 && top_k > 0, "grouped_linear: sizes must be positive");
    require(format >= 0 && format <= static_cast<int>(Format::fp4), "grouped_linear: bad format");
    const Format form = static_cast<Format>(format);
    require(!has_scales(form) || (group > 0 && (group % 32 == 0 || (form == Format::fp4 && group == 16))),
            "grouped_linear: group must be a multiple of 32, or 16 with FP4");
    std::vector<ExpertSource> experts;
    for (const auto& [codes, scales, zeros] : sources)
      experts.push_back({pointer<const char>(codes), pointer(scales), pointer<const float>(zeros)});
    bool not_finite = false;
    WeightView view{.format = form, .n = n, .k = k, .words = nullptr, .panel_stride = 0, .row_stride = 0};
    if (has_scales(form)) view.group = group, view.scale_type = dtype_of(scale_dtype);
    engine.run<GroupedArgs>(&KernelTable::grouped_linear,
                            {pointer(x), x_stride, dtype_of(dtype), tokens, top_k, static_cast<i64>(experts.size()),
                             pointer<const i32>(ids), pointer<const i32>(pairs), pointer<const i32>(starts),
                             experts.data(), view, row_bytes, flip, &not_finite, pointer(out)},
                            tokens * top_k * n * k);
    return !not_finite;
  });
}

}  // namespace

void bind_pieces(py::module_& m, Engine& engine) {
  bind_merge(m, engine);
  bind_permute(m);
  bind_combine(m, engine);
  bind_grouped(m, engine);
}

}  // namespace ts
