#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

enum class FinishReason : std::uint8_t {
    stop,
    length,
    abort,
    unusable,  // the worker could draw no token
    sent       // a peer goes on with it
};

inline constexpr Token kUnusable = -1;  // in place of a token

// A request as it arrives.
struct Submission {
    RequestId id = 0;
    std::vector<Token> prompt;
    std::int64_t max_tokens = 0;
    std::vector<std::int64_t> stop_tokens;
    int priority = 0;      // higher goes first, from -1000 to 1000
    UserId user = 0;       // users share what there is
    bool session = false;  // a next turn is expected: keep the prefix for it
    bool send = false;     // after its first token a peer takes it over, with its pages
    bool receive = false;  // a peer has computed all but the last token of the prompt and sends the pages
    Salt cache_salt{};     // prefixes are reused within one salt
    // For the worker, as MessagePack; goes into the plan that admits the request. Its initializer spares
    // those who name other fields a warning.
    std::string sampling{};  // NOLINT(readability-redundant-member-init)
};

enum class RejectionCode : std::uint8_t {
    duplicate,
    empty_prompt,
    too_long,
    never_fits,
    queue_full,
    invalid
};

// A submission that was not taken, and why. The scheduler is as it was before.
struct Rejection {
    RejectionCode code;
    std::string message;
};

// A token that a settled step gave a request: of several from one step only the last can finish it.
struct Output {
    RequestId request;
    Token token;
    Position cached_tokens;  // prompt tokens taken from the prefix cache
    std::optional<FinishReason> finish;
};

enum class SettleCode : std::uint8_t {
    unknown_step,
    out_of_order,
    wrong_count,
    wrong_accepted,
    invalid_token,
    invalid_duration
};

// A step result that does not fit what was planned. The scheduler is as it was before.
struct SettleError {
    SettleCode code;
    std::string message;
};

// Counters since the start, and gauges of now.
struct Stats {
    std::int64_t requests_running = 0;
    std::int64_t requests_waiting = 0;
    std::int64_t pages_used = 0;  // held by requests; pages that only the prefix cache holds are free to take
    std::int64_t pages_total = 0;
    std::int64_t pages_cached = 0;      // held by the prefix cache alone
    std::int64_t tokens_waiting = 0;    // prompt tokens of the waiting requests
    std::int64_t prefix_queries = 0;    // requests that looked for a cached prefix
    std::int64_t prefix_hits = 0;       // those that found one
    std::int64_t prefix_evictions = 0;  // pages that the cache gave up
    std::int64_t prefix_query_tokens = 0;
    std::int64_t prefix_hit_tokens = 0;
    std::int64_t prefill_tokens = 0;
    std::int64_t decode_tokens = 0;
    std::int64_t draft_tokens = 0;           // positions reserved for drafts, in steps that have settled
    std::int64_t accepted_draft_tokens = 0;  // those whose token was accepted
    std::int64_t preemptions = 0;
    std::int64_t steps = 0;
    std::int64_t host_pages_used = 0;  // that hold copies, or will
    std::int64_t host_hit_tokens = 0;  // of prefix_hit_tokens: loaded from the host
    std::int64_t host_stored_pages = 0;
    std::int64_t host_loaded_pages = 0;
    std::int64_t transfers_failed = 0;
};

[[nodiscard]] std::string_view name_of(FinishReason reason);
[[nodiscard]] std::string_view name_of(RejectionCode code);
[[nodiscard]] std::string_view name_of(SettleCode code);

}  // namespace ts::scheduler
