#pragma once

#include <optional>
#include <span>
#include <vector>

#include "cache/block_key.h"
#include "cache/digest.h"
#include "cache/page.h"
#include "cache/page_pool.h"

namespace ts::scheduler {

// Which pages hold which prefixes: a tree of blocks for each salt, found by digest and decided by the ids.
//
// A block is equal to a query when its parent is the same node (at the root: when the salt is the same) and
// its tokens are the same ids, so by induction whole prefixes are compared exactly; a digest collision costs
// a comparison and nothing else.
class PrefixIndex {
 public:
    using Node = std::int32_t;
    static constexpr Node kRoot = -1;

    // What became of a published page.
    struct Published {
        Node node;
        // Set when another request's page with this content stays in the index: hold it for as long as blocks
        // below `node` are held, so that no listed block outlives its ancestors.
        std::optional<SharedPage> alias;
    };

    PrefixIndex(PagePool& pool, int page_size);
    PrefixIndex(const PrefixIndex&) = delete;
    PrefixIndex& operator=(const PrefixIndex&) = delete;
    PrefixIndex(PrefixIndex&&) = delete;
    PrefixIndex& operator=(PrefixIndex&&) = delete;
    ~PrefixIndex();

    [[nodiscard]] std::optional<Node> find(const BlockKey& key) const;
    // Ahead of find(): a long match would else wait for memory at every block. The bucket first, some blocks
    // later what it leads to.
    void prefetch_bucket(Digest digest) const { __builtin_prefetch(&buckets_[bucket(digest)]); }
    void prefetch_block(Digest digest) const;
    [[nodiscard]] bool is_idle(Node node) const { return pool_->is_idle(page_of(node).id()); }
    [[nodiscard]] bool is_leaf(Node node) const { return at(node).children == 0; }
    // Differs after the node has come to stand for another block.
    [[nodiscard]] std::uint32_t generation(Node node) const { return at(node).generation; }

    // Somebody waits for this block: it is worth at least `retention`, from now on. The caller touches its
    // ancestors afterwards.
    void touch(Node node, Retention retention) { pool_->touch(page_of(node).id(), retention); }

    // A share of a listed block, which is worth at least `retention` from now on. The caller shares or holds
    // its ancestors.
    [[nodiscard]] SharedPage share(Node node, Retention retention);

    // Lists a sealed page. An equal block that nobody holds is replaced by this one. Where a second block
    // comes to hang below a parent, that parent and its ancestors are a shared prefix.
    [[nodiscard]] Published publish(const BlockKey& key, const SharedPage& page, Retention retention);

    // Frees the page whose turn it is. False when none is idle.
    bool evict();

    // All that are listed, and their digests, in the same order.
    [[nodiscard]] std::vector<PageId> pages() const;
    [[nodiscard]] std::vector<Digest> digests() const;

 private:
    static constexpr std::int32_t kNone = -1;

    struct alignas(64) Entry {  // one cache line
        std::optional<SharedPage> page;
        Digest digest = 0;
        Salt salt;
        Node parent = kRoot;
        std::int32_t children = 0;
        std::int32_t next_in_bucket = kNone;
        std::uint32_t generation = 0;
    };

    [[nodiscard]] Entry& at(Node node) { return entries_[static_cast<std::size_t>(node)]; }
    [[nodiscard]] const Entry& at(Node node) const { return entries_[static_cast<std::size_t>(node)]; }
    [[nodiscard]] const SharedPage& page_of(Node node) const {
        return *at(node).page;  // NOLINT(bugprone-unchecked-optional-access): a listed node has one
    }
    [[nodiscard]] std::size_t bucket(Digest digest) const { return digest & (buckets_.size() - 1); }
    [[nodiscard]] std::span<const Token> tokens(Node node) const;
    void replace(Node node, const SharedPage& page, Retention retention);
    void mark_shared(Node node);
    void unlink(Node node);

    PagePool* pool_;
    std::size_t page_size_;
    std::vector<Entry> entries_;
    std::vector<Token> tokens_;          // of entry i at i * page_size
    std::vector<std::int32_t> buckets_;  // first entry of each chain
    std::vector<Node> unused_;
    std::vector<Node> node_of_page_;
};

}  // namespace ts::scheduler
