#include "ts/scheduler/config.h"

#include <array>
#include <cmath>

#include "groups.h"

namespace ts::scheduler {

std::optional<std::string> problem_with(const Config& config) {
    struct Limit {
        const char* field;
        int value;
    };
    const std::array limits{
        Limit{"page_size", config.page_size},       Limit{"num_pages", config.num_pages},
        Limit{"max_num_seqs", config.max_num_seqs}, Limit{"max_model_len", config.max_model_len},
        Limit{"vocab_size", config.vocab_size},     Limit{"chunk_tokens", config.chunk_tokens},
        Limit{"max_queued", config.max_queued},
    };
    for (const Limit& limit : limits) {
        if (limit.value < 1) {
            return std::string(limit.field) + " is " + std::to_string(limit.value) + "; it is at least 1";
        }
    }
    constexpr int kMost = 1 << 30;  // positions and page counts stay within int32
    if (config.max_model_len > kMost || config.num_pages > kMost / config.page_size) {
        return "max_model_len " + std::to_string(config.max_model_len) + " or num_pages " +
               std::to_string(config.num_pages) + " exceeds 2^30 tokens; lower it";
    }
    if (config.max_queued_tokens < 0 || config.max_queued_per_user < 0 || config.tool_wait_steps < 0 ||
        config.new_prompt_wait_steps < 0) {
        return "max_queued_tokens, max_queued_per_user, tool_wait_steps and new_prompt_wait_steps are at "
               "least 0";
    }
    if (config.priority_tokens < 0 || config.priority_tokens > kMost) {
        return "priority_tokens is " + std::to_string(config.priority_tokens) + "; it is from 0 to 2^30";
    }
    if (config.host_pages < 0 || config.host_pages > kMost / config.page_size) {
        return "host_pages is " + std::to_string(config.host_pages) +
               "; it is from 0 (no host tier) to 2^30 tokens' worth";
    }
    if (config.host_pages > 0 && !config.prefix_caching) {
        return "host_pages is " + std::to_string(config.host_pages) +
               " without prefix_caching, which it extends; turn that on or set host_pages to 0";
    }
    if (config.write_back_pages < 1) {
        return "write_back_pages is " + std::to_string(config.write_back_pages) + "; it is at least 1";
    }
    if (!(config.growth_room >= 0 && config.growth_room < 1)) {
        return "growth_room is " + std::to_string(config.growth_room) + "; it is from 0 to below 1";
    }
    if (!std::isfinite(config.min_tps) || config.min_tps < 0) {
        return "min_tps is " + std::to_string(config.min_tps) + "; it is 0 (no floor) or above";
    }
    if (config.depth < 1 || config.depth > kMaxDepth) {
        return "depth is " + std::to_string(config.depth) + "; one to three steps can be in flight";
    }
    constexpr int kMostDrafts = 32;
    if (config.draft_tokens < 0 || config.draft_tokens > kMostDrafts) {
        return "draft_tokens is " + std::to_string(config.draft_tokens) + "; it is from 0 (none) to " +
               std::to_string(kMostDrafts);
    }
    if (config.chunk_tokens < 1 + config.draft_tokens) {
        return "chunk_tokens is " + std::to_string(config.chunk_tokens) + "; a decode with draft_tokens " +
               std::to_string(config.draft_tokens) + " takes " + std::to_string(1 + config.draft_tokens);
    }
    return problem_with_groups(config);
}

}  // namespace ts::scheduler
