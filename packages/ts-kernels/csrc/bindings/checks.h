// Checks that several bindings share.
#pragma once

#include "bindings/breach.h"
#include "bindings/engine.h"

namespace ts {

inline Activation activation_of(int gate, float alpha, float limit) {
  require(gate >= 0 && gate <= static_cast<int>(Gate::gelu_tanh), "activation: unknown");
  return {static_cast<Gate>(gate), alpha, limit};
}

// cu_q runs from 0 to the tokens and does not fall.
inline void check_spans(const char* operation, const i32* cu_q, i64 rows, i64 tokens) {
  bool good = cu_q[0] == 0 && cu_q[rows] == tokens;
  for (i64 row = 0; row < rows; ++row) good = good && cu_q[row] <= cu_q[row + 1];
  if (good) return;
  std::string given;
  for (i64 row = 0; row <= rows && row < 8; ++row) given += (row ? ", " : "") + std::to_string(cu_q[row]);
  refuse(operation, "cu_q", "from 0 to " + std::to_string(tokens) + " without a fall",
         "[" + given + (rows >= 8 ? ", ...]" : "]"));
}

// A row's keys: at least its queries, and no more than its line of the block table has room for.
inline void check_length(const char* operation, i64 length, i64 least, i64 room) {
  if (length < least || length > room)
    refuse(operation, "seq_lens",
           "from " + std::to_string(least) + (least ? " (the row's queries)" : "") + " to " + std::to_string(room) +
               " (what the block table has room for)",
           std::to_string(length));
}

// The highest page that a row reads; a negative one is a high one.
inline void check_page(const char* operation, i64 row, u32 highest, i64 pages) {
  if (highest >= static_cast<u64>(pages))
    refuse(operation, "block_tables[" + std::to_string(row) + "]", "in [0, " + std::to_string(pages) + ")",
           std::to_string(static_cast<i32>(highest)));
}

inline void check_draw(const char* operation, const DrawArgs& draw, i64 rows) {
  check_finite(operation, "temperature", draw.temperature, rows);
  check_numbers(operation, "top_p", draw.top_p, rows);
  if (draw.min_p) check_numbers(operation, "min_p", draw.min_p, rows);
}

}  // namespace ts
