#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

// A running request that could give its pages back.
struct Victim {
    int priority;
    Position computed;  // what it would have to compute again
};

// Who gives way when pages run out: of the lowest priority, the one that loses the least work; of equals the
// last. Candidates come in the order of their turns, and the first is never taken: it always advances, so
// every request ends. Nothing when there is no second.
[[nodiscard]] inline std::optional<std::size_t> choose_victim(std::span<const Victim> candidates) {
    std::optional<std::size_t> chosen;
    for (std::size_t i = candidates.size(); i-- > 1;) {
        const Victim& candidate = candidates[i];
        if (!chosen || candidate.priority < candidates[*chosen].priority ||
            (candidate.priority == candidates[*chosen].priority &&
             candidate.computed < candidates[*chosen].computed)) {
            chosen = i;
        }
    }
    return chosen;
}

}  // namespace ts::scheduler
