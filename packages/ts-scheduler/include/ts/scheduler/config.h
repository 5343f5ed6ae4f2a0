#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ts::scheduler {

inline constexpr int kMaxDepth = 3;  // most steps in flight at once

// A part of the model's cache beside the keys and values of full attention, with pages of its own. Layers
// with a sliding window keep those of the last positions alone, layers with linear attention one state a
// request.
struct CacheGroup {
    enum class Kind : std::uint8_t { window, state };

    Kind kind = Kind::window;
    int num_pages = 0;          // of a state group: states, one a page
    int window = 0;             // of a window group: tokens that a position attends to, itself included
    int checkpoint_blocks = 0;  // of a state group: blocks from one checkpoint to the next
};

// The limits of one scheduler. Sizes are in tokens unless named otherwise.
struct Config {
    int page_size = 0;      // tokens a page
    int num_pages = 0;      // pages in the worker's pool, all of them the scheduler's to hand out
    int max_num_seqs = 0;   // slots: requests that hold pages at once
    int max_model_len = 0;  // longest sequence, prompt and output
    int vocab_size = 0;
    int chunk_tokens = 0;  // most tokens of one step, decodes included
    int max_queued = 0;    // requests that may wait beyond those that the slots can run
    bool prefix_caching = true;
    int depth = 2;  // steps in flight at once: 1 to kMaxDepth

    std::int64_t max_queued_tokens = 0;  // prompt tokens that may wait; 0: no limit
    int max_queued_per_user = 0;         // requests of one user that may wait; 0: no limit
    int priority_tokens = 1 << 16;       // tokens of service that a level of priority goes ahead
    int tool_wait_steps = 512;           // steps for which new prompts leave a session's idle pages to it
    int new_prompt_wait_steps = 8192;    // steps for which a new prompt may be passed by conversations
    double growth_room = 0.33;  // part of the pages that new prompts leave for conversations to grow into
    int host_pages = 0;         // pages of host memory for copies of device pages; 0: no host tier
    int write_back_pages = 64;  // of those an allocation would take next, how many have copies
    double min_tps = 0;         // tokens per second that each decoding user keeps; 0: no floor
    int draft_tokens = 0;       // positions that a decode reserves for drafts beside its own; 0: none

    // Beside full attention's; on the wire they count from 1. The initializer lets designated ones leave it
    // out.
    std::vector<CacheGroup> groups = {};  // NOLINT(readability-redundant-member-init)
};

// The pages with which a group can never run out. Whatever requests hold at once fits, so no request has to
// give way to another for want of a page of such a group.
[[nodiscard]] std::int64_t least_pages(const Config& config, const CacheGroup& group);

// What is wrong with a configuration: one sentence that names the field and the fix, or nothing.
[[nodiscard]] std::optional<std::string> problem_with(const Config& config);

}  // namespace ts::scheduler
