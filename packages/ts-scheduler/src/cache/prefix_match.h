#pragma once

#include <algorithm>
#include <vector>

#include "cache/prefix_index.h"
#include "cache/sequence.h"

namespace ts::scheduler {

// The blocks of one waiting request that the index has. Looking again costs what has changed, not the prompt:
// a block is evicted after those below it, so as long as the last one is still the same, so are all.
class PrefixMatch {
 public:
    // Looks up to the last whole block that leaves a token to compute.
    void refresh(const PrefixIndex& index, const Sequence& sequence, int page_size) {
        while (!nodes_.empty() && index.generation(nodes_.back().node) != nodes_.back().generation) {
            nodes_.pop_back();
        }
        const int blocks = (sequence.size() - 1) / page_size;
        while (size() < blocks) {
            prefetch(index, sequence, size(), blocks);
            const auto node = index.find(sequence.key(size(), tip()));
            if (!node) {
                return;
            }
            nodes_.push_back({*node, index.generation(*node)});
        }
    }

    [[nodiscard]] int size() const { return static_cast<int>(nodes_.size()); }
    [[nodiscard]] PrefixIndex::Node node(int block) const {
        return nodes_[static_cast<std::size_t>(block)].node;
    }

    // How many of them nobody holds. Below an idle block all are idle, so the border is found by halving.
    [[nodiscard]] int idle(const PrefixIndex& index) const {
        const auto border = std::ranges::partition_point(
            nodes_, [&](const Found& found) { return !index.is_idle(found.node); });
        return static_cast<int>(nodes_.end() - border);
    }

    // Whether it goes on from where a conversation stopped: nothing hangs below the last block yet.
    [[nodiscard]] bool continues(const PrefixIndex& index) const {
        return !nodes_.empty() && index.is_leaf(nodes_.back().node);
    }

    void forget() { std::vector<Found>().swap(nodes_); }

 private:
    struct Found {
        PrefixIndex::Node node;
        std::uint32_t generation;
    };
    static void prefetch(const PrefixIndex& index, const Sequence& sequence, int block, int blocks) {
        constexpr int kAhead = 6;  // blocks that are compared while memory answers
        if (block + 2 * kAhead < blocks) {
            index.prefetch_bucket(sequence.digest(block + 2 * kAhead));
        }
        if (block + kAhead < blocks) {
            index.prefetch_block(sequence.digest(block + kAhead));
        }
    }
    [[nodiscard]] PrefixIndex::Node tip() const {
        return nodes_.empty() ? PrefixIndex::kRoot : nodes_.back().node;
    }

    std::vector<Found> nodes_;
};

}  // namespace ts::scheduler
