#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cache/page.h"
#include "cache/prefix_index.h"

namespace ts::scheduler {

// The ticket of a transfer that copies cached blocks to the host. It holds both sides: the device pages
// cannot be reused, and the host pages cannot be read, before a proof says that it has ended.
class [[nodiscard]] Store {
 public:
    Store() = default;
    Store(Store&&) = default;
    Store& operator=(Store&&) = default;
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;
    ~Store() = default;

    // An idle block, and a page for its copy.
    void add(PrefixIndex& index, PrefixIndex::Node node, Writable<Host> copy) {
        auto [source, place] = index.share_for_copy(node);
        blocks_.push_back({node, index.generation(node), place, std::move(source), std::move(copy)});
    }

    [[nodiscard]] bool empty() const { return blocks_.empty(); }
    [[nodiscard]] std::int64_t size() const { return std::ssize(blocks_); }

    template <class Visit>
    void for_each_pair(Visit&& visit) const {
        for (const Block& block : blocks_) {
            visit(block.source.id(), block.copy.id());
        }
    }

    // Lists the copies, if they have arrived, of the blocks that are still the same.
    void end(const TransferProof& proof, bool arrived, PrefixIndex& index) && {
        for (Block& block : blocks_) {
            const bool same = index.generation(block.node) == block.generation;
            if (same && arrived) {
                index.attach(block.node, std::move(block.copy).seal(proof));
            }
            if (same) {
                index.hand_back(std::move(block.source), block.place);
            }
        }
    }

 private:
    struct Block {
        PrefixIndex::Node node;
        std::uint32_t generation;
        IdlePages::Place place;
        SharedPage source;
        Writable<Host> copy;
    };

    std::vector<Block> blocks_;
};

}  // namespace ts::scheduler
