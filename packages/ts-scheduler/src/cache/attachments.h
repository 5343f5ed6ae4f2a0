#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "cache/page_pool.h"
#include "cache/prefix_index.h"
#include "invariant.h"

namespace ts::scheduler {

// The pages of one further group that hang at the nodes of the prefix index, at most one at each. What nobody
// else holds is idle and evicted in an order of its own; and a page goes with its node.
//
// Whoever holds an attached page holds the node's block, so the node cannot go before.
template <class Memory>
class Attachments {
 public:
    using Node = PrefixIndex::Node;

    Attachments(Pool<Memory>& pool, int nodes)
        : pool_(&pool),
          pages_(static_cast<std::size_t>(nodes)),
          node_of_page_(static_cast<std::size_t>(pool.total()), kNone) {}

    Attachments(const Attachments&) = delete;
    Attachments& operator=(const Attachments&) = delete;
    Attachments(Attachments&&) = delete;
    Attachments& operator=(Attachments&&) = delete;
    ~Attachments() {
        for (const Node node : nodes()) {
            forget(node);
        }
    }

    [[nodiscard]] bool has(Node node) const { return at(node).has_value(); }
    [[nodiscard]] PageId page(Node node) const { return held(node).id(); }

    // A share of the node's page, which is worth at least `retention` from now on.
    [[nodiscard]] Shared<Memory> share(Node node, Retention retention) {
        Shared<Memory> share = held(node).share();
        pool_->touch(share.id(), retention);
        return share;
    }
    void touch(Node node, Retention retention) { pool_->touch(page(node), retention); }

    // Hangs a sealed page at a node. An equal one that hangs there already stays.
    void attach(Node node, const Shared<Memory>& page, Retention retention) {
        if (has(node)) {
            touch(node, retention);
            return;
        }
        at(node).emplace(page.share());
        node_of_page_[static_cast<std::size_t>(page.id())] = node;
        pool_->list(page.id(), retention);
    }

    // The node comes to stand for another block.
    void forget(Node node) {
        if (has(node)) {
            const PageId id = page(node);
            pool_->unlist(id);
            node_of_page_[static_cast<std::size_t>(id)] = kNone;
            at(node).reset();
        }
    }

    // Frees the page whose turn it is. False when none is idle.
    bool evict() {
        const PageId id = pool_->idle_pages().next();
        if (id == IdlePages::kNone) {
            return false;
        }
        forget(node_of_page_[static_cast<std::size_t>(id)]);
        pool_->count_eviction();
        return true;
    }

    // Where something hangs.
    [[nodiscard]] std::vector<Node> nodes() const {
        std::vector<Node> result;
        for (Node node = 0; node < std::ssize(pages_); ++node) {
            if (has(node)) {
                result.push_back(node);
            }
        }
        return result;
    }

 private:
    static constexpr Node kNone = -1;

    [[nodiscard]] std::optional<Shared<Memory>>& at(Node node) {
        return pages_[static_cast<std::size_t>(node)];
    }
    [[nodiscard]] const std::optional<Shared<Memory>>& at(Node node) const {
        return pages_[static_cast<std::size_t>(node)];
    }
    [[nodiscard]] const Shared<Memory>& held(Node node) const {
        invariant(has(node), "a page hangs at the node");
        return *at(node);  // NOLINT(bugprone-unchecked-optional-access): just checked
    }

    Pool<Memory>* pool_;
    std::vector<std::optional<Shared<Memory>>> pages_;  // by node
    std::vector<Node> node_of_page_;
};

// A pool whose idle pages hang at nodes.
template <class Memory>
struct AttachedPool {
    AttachedPool(int num_pages, int nodes) : pool(num_pages), attached(pool, nodes) {}

    [[nodiscard]] int used() const { return pool.total() - pool.free() - pool.idle(); }
    // A page to write: a free one, or the longest idle one.
    [[nodiscard]] std::optional<Writable<Memory>> allocate() {
        if (pool.free() == 0) {
            attached.evict();
        }
        return pool.allocate();
    }

    Pool<Memory> pool;
    Attachments<Memory> attached;
};

}  // namespace ts::scheduler
