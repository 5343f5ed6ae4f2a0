#include "ts/scheduler/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "groups.h"

namespace ts::scheduler {

namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 30;  // positions and page counts stay within int32
constexpr std::int64_t kMostSlots = 1 << 16;
constexpr std::int64_t kMostTokensOfStep = 1 << 24;
constexpr std::int64_t kMostDrafts = 32;

struct Limit {
    const char* field;
    std::int64_t value;
    std::int64_t least;
    std::int64_t most;
};

std::optional<std::string> problem_with(std::span<const Limit> limits) {
    for (const auto& [field, value, least, most] : limits) {
        if (value < least || value > most) {
            return std::string(field) + " is " + std::to_string(value) + "; it is from " +
                   std::to_string(least) + " to " + std::to_string(most);
        }
    }
    return std::nullopt;
}

}  // namespace

std::optional<std::string> problem_with(const Config& config) {
    const std::int64_t most_pages = kMost / std::max(config.page_size, 1);
    const std::array limits{
        Limit{"page_size", config.page_size, 1, kMost},
        Limit{"num_pages", config.num_pages, 1, most_pages},
        Limit{"max_num_seqs", config.max_num_seqs, 1, kMostSlots},
        Limit{"max_model_len", config.max_model_len, 1, kMost},
        Limit{"vocab_size", config.vocab_size, 1, std::numeric_limits<int>::max()},
        Limit{"chunk_tokens", config.chunk_tokens, 1, kMostTokensOfStep},
        Limit{"max_queued", config.max_queued, 1, std::numeric_limits<int>::max()},
        Limit{"max_queued_tokens", config.max_queued_tokens, 0, std::numeric_limits<std::int64_t>::max()},
        Limit{"max_queued_per_user", config.max_queued_per_user, 0, kMost},
        Limit{"tool_wait_steps", config.tool_wait_steps, 0, kMost},
        Limit{"new_prompt_wait_steps", config.new_prompt_wait_steps, 0, kMost},
        Limit{"priority_tokens", config.priority_tokens, 0, kMost},
        Limit{"host_pages", config.host_pages, 0, most_pages},
        Limit{"write_back_pages", config.write_back_pages, 1, kMost},
        Limit{"depth", config.depth, 1, kMaxDepth},
        Limit{"draft_tokens", config.draft_tokens, 0, kMostDrafts},
    };
    if (const auto problem = problem_with(limits)) {
        return problem;
    }
    if (config.host_pages > 0 && !config.prefix_caching) {
        return "host_pages is " + std::to_string(config.host_pages) +
               " without prefix_caching, which it extends; turn that on or set host_pages to 0";
    }
    if (!(config.growth_room >= 0 && config.growth_room < 1)) {
        return "growth_room is " + std::to_string(config.growth_room) + "; it is from 0 to below 1";
    }
    if (!std::isfinite(config.min_tps) || config.min_tps < 0) {
        return "min_tps is " + std::to_string(config.min_tps) + "; it is 0 (no floor) or above";
    }
    if (config.chunk_tokens < 1 + config.draft_tokens) {
        return "chunk_tokens is " + std::to_string(config.chunk_tokens) + "; a decode with draft_tokens " +
               std::to_string(config.draft_tokens) + " takes " + std::to_string(1 + config.draft_tokens);
    }
    return problem_with_groups(config);
}

}  // namespace ts::scheduler
