#include "submission.h"

#include <algorithm>
#include <utility>

#include "wire/unpacker.h"

namespace ts::scheduler {
namespace {

template <class T>
std::optional<Rejection> check_ids(const char* field, const std::vector<T>& ids, int vocab_size) {
    const auto bad = std::ranges::find_if(ids, [=](T id) { return id < 0 || id >= vocab_size; });
    if (bad == ids.end()) {
        return std::nullopt;
    }
    return reject(RejectionCode::invalid, std::string(field) + " has id " + std::to_string(*bad) +
                                              " at index " + std::to_string(bad - ids.begin()) +
                                              "; ids go from 0 to " + std::to_string(vocab_size - 1));
}

// Without a branch for each id: a prompt has many.
bool in_vocabulary(const std::vector<Token>& ids, int vocab_size) {
    const auto last = static_cast<std::uint32_t>(vocab_size - 1);
    std::uint32_t outside = 0;  // its top bit: below 0, or past the last
    for (const Token id : ids) {
        const auto bits = static_cast<std::uint32_t>(id);
        outside |= bits | (last - bits);
    }
    return outside >> 31U == 0;
}

std::optional<Rejection> check_length(const Submission& submission, const Config& config) {
    const auto prompt = static_cast<std::int64_t>(submission.prompt.size());
    if (prompt > config.max_model_len || submission.max_tokens > config.max_model_len - prompt) {
        return reject(RejectionCode::too_long,
                      "prompt of " + std::to_string(prompt) + " and max_tokens " +
                          std::to_string(submission.max_tokens) + " exceed the context of " +
                          std::to_string(config.max_model_len) + " tokens; shorten one of them");
    }
    const std::int64_t computed = prompt + submission.max_tokens - 1;  // the last token is never fed back
    const std::int64_t pages = (computed + config.page_size - 1) / config.page_size;
    if (pages > config.num_pages) {
        return reject(RejectionCode::never_fits,
                      "prompt of " + std::to_string(prompt) + " and max_tokens " +
                          std::to_string(submission.max_tokens) + " need " + std::to_string(pages) +
                          " KV pages of " + std::to_string(config.num_pages) +
                          "; shorten one of them or give the worker a larger KV cache");
    }
    return std::nullopt;
}

std::optional<Rejection> check_sampling(const Submission& submission) {
    constexpr std::size_t kMost = 1 << 16;
    const bool fits = submission.sampling.size() <= kMost;
    if (submission.sampling.empty() || (fits && Unpacker(submission.sampling).holds_one_value())) {
        return std::nullopt;
    }
    return reject(RejectionCode::invalid, "sampling has " + std::to_string(submission.sampling.size()) +
                                              " bytes" + (fits ? " that are not one MessagePack value" : "") +
                                              "; send one encoded value of at most 65536 bytes");
}

}  // namespace

std::optional<Rejection> check(const Submission& submission, const Config& config) {
    if (submission.prompt.empty()) {
        return reject(RejectionCode::empty_prompt, "the prompt is empty; send at least one token");
    }
    if (submission.max_tokens < 1) {
        return reject(RejectionCode::invalid,
                      "max_tokens is " + std::to_string(submission.max_tokens) + "; it is at least 1");
    }
    constexpr int kMostPriority = 1000;
    if (submission.priority < -kMostPriority || submission.priority > kMostPriority) {
        return reject(RejectionCode::invalid,
                      "priority is " + std::to_string(submission.priority) + "; it is from -1000 to 1000");
    }
    if (submission.receive && submission.prompt.size() < 2) {
        return reject(
            RejectionCode::invalid,
            "receive is set for a prompt of one token; the peer computes all but the last, so send two");
    }
    if ((submission.send || submission.receive) && !config.groups.empty()) {
        return reject(RejectionCode::invalid,
                      "send or receive is set; windows and states are not moved, so leave them out");
    }
    if (!in_vocabulary(submission.prompt, config.vocab_size)) {
        return check_ids("prompt", submission.prompt, config.vocab_size);
    }
    if (auto rejection = check_ids("stop_token_ids", submission.stop_tokens, config.vocab_size)) {
        return rejection;
    }
    if (auto rejection = check_sampling(submission)) {
        return rejection;
    }
    return check_length(submission, config);
}

}  // namespace ts::scheduler
