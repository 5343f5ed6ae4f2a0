#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "cache/cache_groups.h"
#include "cache/prefix_index.h"
#include "cache/sequence.h"

namespace ts::scheduler {

// The blocks of one waiting request that the index has: first those on the device, then those on the host.
// Looking again costs what has changed, not the prompt: a block is evicted after those below it, so as long
// as the last one is still the same, so are all.
class PrefixMatch {
 public:
    // Looks up to the last whole block that leaves a token to compute, and how far the other groups agree.
    void refresh(const PrefixIndex& index, const Sequence& sequence, int page_size,
                 const CacheGroups* groups = nullptr) {
        look(index, sequence, page_size);
        if (groups != nullptr) {
            agreed_ = groups->agreed(nodes_);
        }
    }

    // The blocks that can be reused.
    [[nodiscard]] std::span<const PrefixIndex::Found> prefix() const {
        return std::span(nodes_).first(static_cast<std::size_t>(agreed_));
    }
    [[nodiscard]] int size() const { return static_cast<int>(agreed_); }
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
        const auto blocks = prefix();
        if (index.has_host()) {
            return static_cast<int>(std::ranges::count_if(
                blocks, [&](const PrefixIndex::Found& found) { return index.is_idle(found.node); }));
        }
        const auto border = std::ranges::partition_point(
            blocks, [&](const PrefixIndex::Found& found) { return !index.is_idle(found.node); });
        return static_cast<int>(blocks.end() - border);
    }

    // Whether it goes on from where a conversation stopped: nothing hangs below the last block yet.
    [[nodiscard]] bool continues(const PrefixIndex& index) const {
        return agreed_ > 0 && index.is_leaf(nodes_.back().node);
    }

    void forget() {
        std::vector<PrefixIndex::Found>().swap(nodes_);
        std::vector<PrefixIndex::Node>().swap(copies_);
        agreed_ = 0;
    }

 private:
    void look(const PrefixIndex& index, const Sequence& sequence, int page_size) {
        while (!nodes_.empty() && index.generation(nodes_.back().node) != nodes_.back().generation) {
            nodes_.pop_back();
        }
        const int blocks = (sequence.size() - 1) / page_size;
        copies_.clear();
        is_coming_ = false;
        agreed_ = std::ssize(nodes_);
        while (size() < blocks) {
            prefetch(index, sequence, size(), blocks);
            const auto node = index.find(sequence.key(size(), tip()));
            if (!node || !index.on_device(*node)) {
                add_copies(index, sequence, node, blocks);
                return;
            }
            nodes_.push_back({*node, index.generation(*node)});
            ++agreed_;
        }
    }
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

    std::vector<PrefixIndex::Found> nodes_;
    std::ptrdiff_t agreed_ = 0;  // of them, on which all groups agree
    std::vector<PrefixIndex::Node> copies_;
    bool is_coming_ = false;
};

}  // namespace ts::scheduler
