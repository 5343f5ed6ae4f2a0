#pragma once

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cache/block_key.h"
#include "cache/digest.h"
#include "cache/page.h"
#include "cache/page_pool.h"

namespace ts::scheduler {

class CacheGroups;

// Which pages hold which prefixes: a tree of blocks for each salt, found by digest and decided by the ids.
//
// A block is equal to a query when its parent is the same node (at the root: when the salt is the same) and
// its tokens are the same ids, so by induction whole prefixes are compared exactly; a digest collision costs
// a comparison and nothing else.
//
// A block has a page on the device, or a copy on the host, or both. The ancestors of a block on the device
// are on the device. A block whose device page is evicted lives on if it has a copy. Copies are evicted when
// their blocks have been on the host alone for longest; a block got there after those below it, so the first
// to go has nothing below it.
class PrefixIndex {
 public:
    using Node = std::int32_t;
    static constexpr Node kRoot = -1;

    // A node, and what it stood for when it was found.
    struct Found {
        Node node;
        std::uint32_t generation;
    };

    // What became of a published page.
    struct Published {
        Node node;
        // Set when another request's page with this content stays in the index: hold it for as long as blocks
        // below `node` are held, so that no listed block outlives its ancestors.
        std::optional<SharedPage> alias;
    };

    PrefixIndex(PagePool& pool, Pool<Host>& host, int page_size);
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
    [[nodiscard]] bool is_leaf(Node node) const { return at(node).first_child == kNone; }
    [[nodiscard]] bool has_host() const { return !node_of_copy_.empty(); }
    [[nodiscard]] bool on_device(Node node) const { return at(node).page.has_value(); }
    [[nodiscard]] bool has_copy(Node node) const { return rest(node).copy.has_value(); }
    // Somebody is copying it to the device.
    [[nodiscard]] bool is_loading(Node node) const {
        return has_copy(node) && host_->references(copy_of(node).id()) > 1;
    }
    // Differs after the node has come to stand for another block, or has left the device.
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

    // Blocks worth a copy that have none, of the `within` that go next; at most `most`, the next to go first.
    [[nodiscard]] std::vector<Node> without_copy(int within, std::size_t most) const;
    // A share of an idle block for as long as it is being copied, and where it stood among the idle ones.
    [[nodiscard]] std::pair<SharedPage, IdlePages::Place> share_for_copy(Node node) {
        const IdlePages::Place place = pool_->leave_place(page_of(node).id());
        return {page_of(node).share(), place};
    }
    // The block has been copied to the host.
    void attach(Node node, const Shared<Host>& copy);
    // The copying has ended: if nobody asked for the block meanwhile, it goes when it would have gone.
    void hand_back(SharedPage page, IdlePages::Place place);
    [[nodiscard]] Shared<Host> share_copy(Node node) const { return copy_of(node).share(); }
    // Somebody waits for this block, which is on the host alone. Its ancestors are touched afterwards.
    void touch_copy(Node node) { host_->mark(copy_of(node).id(), Retention::once); }
    // Frees the host page whose turn it is. False when none is idle, or those that are have lately been of
    // use.
    bool evict_copy();
    // Other groups' pages hang at the nodes, and go with them.
    void watch(CacheGroups& groups) { groups_ = &groups; }
    [[nodiscard]] int capacity() const { return static_cast<int>(entries_.size()); }
    [[nodiscard]] Digest digest(Node node) const { return at(node).digest; }

    // All that are listed, and their digests, in the same order.
    [[nodiscard]] std::vector<PageId> pages() const;
    [[nodiscard]] std::vector<Digest> digests() const;
    // All blocks with a copy: host page, digest, and device page or -1.
    struct Copy {
        PageId host;
        Digest digest;
        PageId device;
    };
    [[nodiscard]] std::vector<Copy> copies() const;

 private:
    static constexpr std::int32_t kNone = -1;

    struct alignas(64) Entry {  // one cache line
        std::optional<SharedPage> page;
        Digest digest = 0;
        Node parent = kRoot;
        Node first_child = kNone;
        Node next_sibling = kNone;
        Node previous_sibling = kNone;
        std::int32_t on_device_below = 0;  // children
        std::int32_t next_in_bucket = kNone;
        std::uint32_t generation = 0;
    };
    static_assert(sizeof(Entry) == 64);

    // What a search seldom needs.
    struct Rest {
        Salt salt;
        std::optional<Shared<Host>> copy;
    };

    [[nodiscard]] Entry& at(Node node) { return entries_[static_cast<std::size_t>(node)]; }
    [[nodiscard]] const Entry& at(Node node) const { return entries_[static_cast<std::size_t>(node)]; }
    [[nodiscard]] Rest& rest(Node node) { return rests_[static_cast<std::size_t>(node)]; }
    [[nodiscard]] const Rest& rest(Node node) const { return rests_[static_cast<std::size_t>(node)]; }
    [[nodiscard]] const SharedPage& page_of(Node node) const {
        return *at(node).page;  // NOLINT(bugprone-unchecked-optional-access): a listed node has one
    }
    [[nodiscard]] std::size_t bucket(Digest digest) const { return digest & (buckets_.size() - 1); }
    [[nodiscard]] std::span<const Token> tokens(Node node) const;
    [[nodiscard]] const Shared<Host>& copy_of(Node node) const {
        const auto& copy = rest(node).copy;
        return *copy;  // NOLINT(bugprone-unchecked-optional-access): the caller has asked has_copy()
    }
    [[nodiscard]] Node take(const BlockKey& key);
    void put(Node node, const SharedPage& page, Retention retention);
    void replace(Node node, const SharedPage& page, Retention retention);
    void mark_shared(Node node);
    void adopt(Node parent, Node child);
    void leave(Node child);
    void unlink(Node node);
    void leave_device(Node node);
    void drop_children_on_device(Node node);
    void drop(Node node);
    void drop_copy(Node node);
    void forget(Node node);

    PagePool* pool_;
    Pool<Host>* host_;
    CacheGroups* groups_ = nullptr;
    std::size_t page_size_;
    std::vector<Entry> entries_;
    std::vector<Rest> rests_;
    std::vector<Token> tokens_;          // of entry i at i * page_size
    std::vector<std::int32_t> buckets_;  // first entry of each chain
    std::vector<Node> unused_;
    std::vector<Node> node_of_page_;
    std::vector<Node> node_of_copy_;
};

}  // namespace ts::scheduler
