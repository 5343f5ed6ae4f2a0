#pragma once

#include <vector>

#include "cache/kv_cache.h"
#include "cache/page.h"
#include "cache/prefix_index.h"
#include "cache/sequence.h"

namespace ts::scheduler {

// One request's pages in the order of its tokens: sealed ones, then those it may still write. Only ever grows
// at the end, and turns writable into sealed from the front.
class BlockTable {
 public:
    BlockTable() = default;
    BlockTable(BlockTable&&) = delete;
    BlockTable& operator=(BlockTable&&) = delete;
    BlockTable(const BlockTable&) = delete;
    BlockTable& operator=(const BlockTable&) = delete;
    // Gives pages back last block first: the prefix index relies on it (see PagePool).
    ~BlockTable();

    [[nodiscard]] int size() const { return static_cast<int>(sealed_.size() + open_.size() - first_open_); }
    [[nodiscard]] int sealed() const { return static_cast<int>(sealed_.size()); }
    [[nodiscard]] PageId page(int block) const;
    [[nodiscard]] std::vector<PageId> alias_pages() const;

    // Makes room for so many blocks, the last `writable` of them not hit.
    void reserve(int blocks, int writable) {
        sealed_.reserve(static_cast<std::size_t>(blocks));
        open_.reserve(static_cast<std::size_t>(writable));
    }
    // Appends a prefix hit. Only before the first writable page.
    void append(PrefixIndex::Node node, SharedPage page);
    void append(WritablePage page) { open_.push_back(std::move(page)); }

    // Seals and lists the blocks before `complete`, whose contents have come back. Appends their nodes to
    // `nodes`, where somebody wants them.
    template <EndsWritingOf<Device> Proof>
    void publish(const Proof& proof, PrefixIndex& index, const Sequence& sequence, int complete,
                 Retention retention, std::vector<PrefixIndex::Node>* nodes = nullptr) {
        while (sealed() < complete) {
            list(std::move(first_open()).seal(proof), index, sequence, retention);
            if (nodes != nullptr) {
                nodes->push_back(tip_);
            }
        }
        forget_sealed();
    }

 private:
    struct Alias {
        int block;
        SharedPage page;
    };

    [[nodiscard]] WritablePage& first_open();
    void list(SharedPage page, PrefixIndex& index, const Sequence& sequence, Retention retention);
    void forget_sealed();

    std::vector<SharedPage> sealed_;
    std::vector<WritablePage> open_;
    std::size_t first_open_ = 0;  // of open_: those before it have been sealed
    std::vector<Alias> aliases_;
    PrefixIndex::Node tip_ = PrefixIndex::kRoot;
};

}  // namespace ts::scheduler
