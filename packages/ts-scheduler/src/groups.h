#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "ts/scheduler/config.h"

namespace ts::scheduler {

// Requests that hold pages at once: no more than there are slots, and so many that all decodes fit into a
// step.
[[nodiscard]] inline int usable_slots(const Config& config) {
    return std::min(config.max_num_seqs, config.chunk_tokens / (1 + config.draft_tokens));
}

// What is wrong with the groups of a configuration whose other fields are good, or nothing.
[[nodiscard]] std::optional<std::string> problem_with_groups(const Config& config);

}  // namespace ts::scheduler
