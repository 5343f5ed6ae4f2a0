// Sampling: the draw, edits of logits before it, what is read from them, and verification of drafts.
#include "bindings/checks.h"

namespace ts {
namespace {

// Parameters of a draw, as Python passes them: temperature, top_k, top_p, seeds, positions, min_p (0: off).
struct Parameters {
  Address temperature, top_k, top_p, seeds, positions, min_p;
  DrawArgs args() const {
    return {pointer<const float>(temperature), pointer<const i32>(top_k),     pointer<const float>(top_p),
            pointer<const i64>(seeds),         pointer<const i64>(positions), pointer<const float>(min_p)};
  }
};

void bind_draws(py::module_& m, Engine& engine) {
  m.def("sample", [&engine](Address logits, i64 stride, i64 rows, i64 vocab, Address temperature, Address top_k,
                            Address top_p, Address seeds, Address positions, Address min_p, Address out) {
    require(vocab > 0, "sample: vocab must be positive");
    const Parameters draw{temperature, top_k, top_p, seeds, positions, min_p};
    check_draw("sampling.sample", draw.args(), rows);
    engine.run<SampleArgs>(&KernelTable::sample,
                           {pointer<const float>(logits), stride, rows, vocab, draw.args(), pointer<i32>(out)},
                           rows * vocab * 8);
  });
  m.def("argmax", [&engine](Address logits, int dtype, i64 stride, i64 rows, i64 vocab, Address out) {
    require(vocab > 0, "argmax: vocab must be positive");
    engine.run<ArgmaxArgs>(&KernelTable::argmax,
                           {pointer(logits), dtype_of(dtype), stride, rows, vocab, pointer<i32>(out)}, rows * vocab);
  });
  m.def("verify", [&engine](Address logits, i64 rows, i64 places, i64 vocab, Address drafts, Address counts,
                            Address draft_probs, Address temperature, Address top_k, Address top_p, Address seeds,
                            Address positions, Address min_p, Address accepted, Address bonus) {
    require(vocab > 0 && places > 1, "verify: vocab must be positive and places at least 2");
    const i32 *draft = pointer<const i32>(drafts), *count = pointer<const i32>(counts);
    check_below("sampling.verify", "drafts", draft, rows * (places - 1), vocab);
    check_range("sampling.verify", "counts", count, rows, 0, places);
    const Parameters draw{temperature, top_k, top_p, seeds, positions, min_p};
    check_draw("sampling.verify", draw.args(), rows);
    engine.run<VerifyArgs>(
        &KernelTable::verify,
        {pointer<const float>(logits), rows, places, vocab, draft, count, pointer<const float>(draft_probs),
         draw.args(), pointer<i32>(accepted), pointer<i32>(bonus)},
        rows * places * vocab * 8);
  });
}

// Of those rows that are penalized.
void check_penalties(const i64* slots, i64 rows, const float* repetition, const float* presence,
                     const float* frequency) {
  constexpr const char* kName = "sampling.apply_penalties";
  for (i64 row = 0; row < rows; ++row) {
    if (slots[row] < 0) continue;
    check_finite(kName, "repetition", repetition + row, 1);
    check_finite(kName, "presence", presence + row, 1);
    check_finite(kName, "frequency", frequency + row, 1);
  }
}

void bind_edits(py::module_& m, Engine& engine) {
  m.def("count_tokens", [&engine](Address counts, i64 slots, i64 vocab, Address slot_ids, Address tokens,
                                  i64 token_stride, i64 rows, i64 tokens_per_row, bool prompt) {
    const i64* slot = pointer<const i64>(slot_ids);
    const i32* token = pointer<const i32>(tokens);
    check_below("sampling.count_tokens", "slots", slot, rows, slots);
    for (i64 row = 0; row < rows; ++row)
      check_below("sampling.count_tokens", "tokens", token + row * token_stride, tokens_per_row, vocab);
    engine.run<CountArgs>(&KernelTable::count_tokens,
                          {pointer<u16>(counts), vocab, slot, token, token_stride, rows, tokens_per_row, prompt},
                          rows * tokens_per_row);
  });
  m.def("apply_penalties", [&engine](Address logits, i64 stride, i64 rows, i64 vocab, Address counts, i64 slots,
                                     Address slot_ids, Address repetition, Address presence, Address frequency) {
    const i64* slot = pointer<const i64>(slot_ids);
    check_below("sampling.apply_penalties", "slots", slot, rows, slots);
    check_penalties(slot, rows, pointer<const float>(repetition), pointer<const float>(presence),
                    pointer<const float>(frequency));
    engine.run<PenaltyArgs>(
        &KernelTable::apply_penalties,
        {pointer<float>(logits), stride, rows, vocab, pointer<const u16>(counts), slot,
         pointer<const float>(repetition), pointer<const float>(presence), pointer<const float>(frequency)},
        rows * vocab);
  });
  m.def("apply_bias", [&engine](Address logits, i64 stride, i64 batch, i64 vocab, i64 entries, Address rows,
                                Address tokens, Address values) {
    const i32 *row = pointer<const i32>(rows), *token = pointer<const i32>(tokens);
    check_below("sampling.apply_bias", "rows", row, entries, batch);
    for (i64 i = 0; i < entries; ++i)
      if (row[i] >= 0) check_range("sampling.apply_bias", "tokens", token + i, 1, 0, vocab);
    engine.run<BiasArgs>(&KernelTable::apply_bias,
                         {pointer<float>(logits), stride, entries, row, token, pointer<const float>(values)}, entries);
  });
  m.def("apply_mask", [&engine](Address logits, i64 stride, i64 rows, i64 vocab, Address mask, i64 lines,
                                Address line_ids) {
    const i64* line = pointer<const i64>(line_ids);
    require(line || lines == rows, "apply_mask: mask must have a line a row");
    if (line) check_below("sampling.apply_mask", "rows", line, rows, lines);
    engine.run<MaskArgs>(&KernelTable::apply_mask,
                         {pointer<float>(logits), stride, rows, vocab, pointer<const u32>(mask), line}, rows * vocab);
  });
}

void bind_reports(py::module_& m, Engine& engine) {
  m.def("logprobs", [&engine](Address logits, i64 stride, i64 rows, i64 vocab, Address tokens, i64 n, Address chosen,
                              Address ranks, Address top_ids, Address top_values) {
    require(vocab > 0 && n >= 0 && n <= vocab, "logprobs: n must be from 0 to the vocabulary");
    const i32* token = pointer<const i32>(tokens);
    check_below("sampling.logprobs", "tokens", token, rows, vocab);
    engine.run<LogprobsArgs>(&KernelTable::logprobs,
                             {pointer<const float>(logits), stride, rows, vocab, token, n, pointer<float>(chosen),
                              pointer<i32>(ranks), pointer<i32>(top_ids), pointer<float>(top_values)},
                             rows * vocab * 8);
  });
}

}  // namespace

void bind_sampling(py::module_& m, Engine& engine) {
  bind_draws(m, engine);
  bind_edits(m, engine);
  bind_reports(m, engine);
}

}  // namespace ts
