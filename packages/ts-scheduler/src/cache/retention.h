#pragma once

#include <cstdint>

namespace ts::scheduler {

// How long a cached block is worth keeping once nobody holds it, in rising order. A block is never worth less
// than the blocks below it: whoever marks a block marks its ancestors.
enum class Retention : std::uint8_t {
    once,     // of a prompt that nothing suggests will come again
    session,  // of a conversation: hit again, or its sender announced a next turn
    shared,   // of a prefix from which several conversations branch
};

inline constexpr int kRetentions = 3;

}  // namespace ts::scheduler
