// Checks of values that the kernels follow as addresses; ValueError.
#pragma once

#include "bindings/engine.h"

namespace ts {

inline void check_positions(const i64* positions, i64 count, i64 max_positions) {
  for (i64 i = 0; i < count; ++i)
    require(positions[i] >= 0 && positions[i] < max_positions, "positions: outside of the cos_sin table");
}

inline Activation activation_of(int gate, float alpha, float limit) {
  require(gate >= 0 && gate <= static_cast<int>(Gate::gelu_tanh), "activation: unknown");
  return {static_cast<Gate>(gate), alpha, limit};
}

inline void check_slots(const i64* slots, i64 count, i64 cache_slots,
                        const char* message = "write_latent: slots: beyond the cache") {
  for (i64 i = 0; i < count; ++i) require(slots[i] < cache_slots, message);
}

}  // namespace ts
