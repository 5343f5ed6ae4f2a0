#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "cache/prefix_index.h"
#include "cache/sequence.h"

namespace ts::scheduler {

// The blocks of one waiting request that the index has: first those on the device, then those on the host.
// Looking again costs what has changed, not the prompt: a block is evicted after those below it, so as long
// as the last one is still the same, so are all.
class PrefixMatch {
 public:
    // Looks up to the last whole block that leaves a token to compute.
    void refresh(const PrefixIndex& index, const Sequence& sequence, int page_size) {
        while (!nodes_.empty() && index.generation(nodes_.back().node) != nodes_.back().generation) {
            nodes_.pop_back();
        }
        const int blocks = (sequence.size() - 1) / page_size;
        copies_.clear();
        is_coming_ = false;
        while (size() < blocks) {
            prefetch(index, sequence, size(), blocks);
            const auto node = index.find(sequence.key(size(), tip()));
            if (!node || !index.on_device(*node)) {
                add_copies(index, sequence, node, blocks);
                return;
            }
            nodes_.push_back({*node, index.generation(*node)});
        }
    }

    [[nodiscard]] int size() const { return static_cast<int>(nodes_.size()); }
    [[nodiscard]] PrefixIndex::Node node(int block) const {
        return nodes_[static_cast<std::size_t>(block)].node;
    }

    // Blocks after those that are on the host alone, to be used at once.
    [[nodiscard]] const std::vector<PrefixIndex::Node>& copies() const { return copies_; }
    // All blocks that need not be computed.
    [[nodiscard]] int found() const { return size() + static_cast<int>(copies_.size()); }
    // Somebody is loading what comes next.
    [[nodiscard]] bool is_coming() const { return is_coming_; }

    // How many of those on the device nobody holds. Below an idle block all are idle, unless one is being
    // copied to the host, so the border is found by halving.
    [[nodiscard]] int idle(const PrefixIndex& index) const {
        if (index.has_host()) {
            return static_cast<int>(
                std::ranges::count_if(nodes_, [&](const Found& found) { return index.is_idle(found.node); }));
        }
        const auto border = std::ranges::partition_point(
            nodes_, [&](const Found& found) { return !index.is_idle(found.node); });
        return static_cast<int>(nodes_.end() - border);
    }

    // Whether it goes on from where a conversation stopped: nothing hangs below the last block yet.
    [[nodiscard]] bool continues(const PrefixIndex& index) const {
        return !nodes_.empty() && index.is_leaf(nodes_.back().node);
    }

    void forget() {
        std::vector<Found>().swap(nodes_);
        std::vector<PrefixIndex::Node>().swap(copies_);
    }

 private:
    struct Found {
        PrefixIndex::Node node;
        std::uint32_t generation;
    };
    void add_copies(const PrefixIndex& index, const Sequence& sequence, std::optional<PrefixIndex::Node> node,
                    int blocks) {
        while (node && !index.on_device(*node) && index.has_copy(*node)) {
            if (index.is_loading(*node)) {
                is_coming_ = true;
                return;
            }
            copies_.push_back(*node);
            if (found() == blocks) {
                return;
            }
            node = index.find(sequence.key(found(), *node));
        }
    }

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
    std::vector<PrefixIndex::Node> copies_;
    bool is_coming_ = false;
};

}  // namespace ts::scheduler
