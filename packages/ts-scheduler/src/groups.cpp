#include "groups.h"

#include <algorithm>

namespace ts::scheduler {
namespace {

constexpr int kMost = 1 << 30;  // positions stay within int32

[[nodiscard]] std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// A request with `s` tokens settled and `d` more planned holds the blocks from that of token s - window + 1
// up to that of token s + d - 1: those of window - 1 + d tokens, so at most ceil((window - 1) / page) + 2 +
// floor(d / page). The sum of all `d` is what the steps in flight compute, and what a draining request's last
// step leaves counted of those that have settled before it: at most 2 * depth - 1 steps of chunk_tokens each.
// A page for drafts that were rejected stays with its request, which comes to it: draft_tokens for each step
// in flight.
[[nodiscard]] std::int64_t least_window_pages(const Config& config, std::int64_t window) {
    const std::int64_t slots = usable_slots(config);
    const std::int64_t page = config.page_size;
    const std::int64_t held = window - 1 + std::int64_t{config.depth} * config.draft_tokens;
    const std::int64_t planned = (2 * std::int64_t{config.depth} - 1) * config.chunk_tokens / page;
    return std::min(slots * (ceil_div(held, page) + 2) + planned,
                    slots * ceil_div(config.max_model_len, page));
}

// Each request works on one state and may hold the checkpoint that it started from. Beyond those, each step
// in flight may write a checkpoint; with more pages, more (see CheckpointRoom).
[[nodiscard]] std::int64_t least_states(const Config& config) {
    return 2 * std::int64_t{usable_slots(config)} + config.depth;
}

[[nodiscard]] std::optional<std::string> problem_with_size(const Config& config, const CacheGroup& group) {
    const bool is_window = group.kind == CacheGroup::Kind::window;
    const char* field = is_window ? ".window" : ".checkpoint_blocks";
    const int value = is_window ? group.window : group.checkpoint_blocks;
    const int most = is_window ? kMost : kMost / config.page_size;
    if (value < 1 || value > most) {
        return std::string(field) + " is " + std::to_string(value) + "; it is from 1 to " +
               std::to_string(most);
    }
    if (group.num_pages > kMost / config.page_size) {
        return ".num_pages " + std::to_string(group.num_pages) + " exceeds 2^30 tokens; lower it";
    }
    if (const std::int64_t least = least_pages(config, group); group.num_pages < least) {
        return ".num_pages is " + std::to_string(group.num_pages) +
               "; requests can hold more at once: it is at least " + std::to_string(least) +
               ", or lower max_num_seqs or chunk_tokens";
    }
    return std::nullopt;
}

}  // namespace

std::int64_t least_pages(const Config& config, const CacheGroup& group) {
    return group.kind == CacheGroup::Kind::window ? least_window_pages(config, group.window)
                                                  : least_states(config);
}

std::optional<std::string> problem_with_groups(const Config& config) {
    constexpr std::size_t kMostGroups = 64;
    if (config.groups.size() > kMostGroups) {
        return "groups has " + std::to_string(config.groups.size()) + " entries; it has at most " +
               std::to_string(kMostGroups);
    }
    if (!config.groups.empty() && config.host_pages > 0) {
        return "host_pages is " + std::to_string(config.host_pages) +
               "; with groups it is 0, because windows and states have no copies on the host";
    }
    for (std::size_t i = 0; i < config.groups.size(); ++i) {
        if (const auto problem = problem_with_size(config, config.groups[i])) {
            return "groups[" + std::to_string(i) + "]" + *problem;
        }
    }
    return std::nullopt;
}

}  // namespace ts::scheduler
