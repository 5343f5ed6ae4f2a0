#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "cache/block_key.h"
#include "cache/digest.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// What a sampled token means for its request.
enum class Verdict : std::uint8_t { go_on, stop, length };

// A request's token ids, prompt and output, with the digest of each full block computed once as tokens
// arrive.
class Sequence {
 public:
    Sequence(std::vector<Token> prompt, Position max_tokens, std::vector<Token> stop_tokens, int page_size,
             Salt salt = {})
        : page_size_(static_cast<std::size_t>(page_size)),
          salt_(salt),
          prompt_(static_cast<Position>(prompt.size())),
          limit_(prompt_ + max_tokens),
          tokens_(std::move(prompt)),
          stop_tokens_(std::move(stop_tokens)) {
        digests_.reserve(tokens_.capacity() / page_size_);
        digest_full_blocks();
    }

    [[nodiscard]] Position size() const { return static_cast<Position>(tokens_.size()); }
    [[nodiscard]] Position prompt() const { return prompt_; }

    // Positions that get computed before the sequence is at its longest: the last token is never fed back.
    [[nodiscard]] Position computable() const { return limit_ - 1; }

    [[nodiscard]] std::span<const Token> tokens() const { return tokens_; }
    [[nodiscard]] std::span<const Token> block(int i) const {
        return tokens().subspan(static_cast<std::size_t>(i) * page_size_, page_size_);
    }
    // Blocks that the first `positions` tokens fill.
    [[nodiscard]] int full_blocks(Position positions) const {
        return positions / static_cast<Position>(page_size_);
    }
    // What finds a full block in the prefix index, below `parent`.
    [[nodiscard]] BlockKey key(int i, std::int32_t parent) const {
        return {parent, salt_, digests_[static_cast<std::size_t>(i)], block(i)};
    }

    [[nodiscard]] Digest digest(int i) const { return digests_[static_cast<std::size_t>(i)]; }

    [[nodiscard]] Verdict append(Token token) {
        tokens_.push_back(token);
        digest_full_blocks();
        if (std::ranges::find(stop_tokens_, token) != stop_tokens_.end()) {
            return Verdict::stop;
        }
        return size() >= limit_ ? Verdict::length : Verdict::go_on;
    }

 private:
    void digest_full_blocks() {
        while ((digests_.size() + 1) * page_size_ <= tokens_.size()) {
            const Digest prefix = digests_.empty() ? root_digest(salt_) : digests_.back();
            digests_.push_back(extend(prefix, block(static_cast<int>(digests_.size()))));
        }
    }

    std::size_t page_size_;
    Salt salt_;
    Position prompt_;
    Position limit_;
    std::vector<Token> tokens_;
    std::vector<Digest> digests_;
    std::vector<Token> stop_tokens_;
};

}  // namespace ts::scheduler
