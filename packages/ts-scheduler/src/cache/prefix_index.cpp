#include "cache/prefix_index.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "invariant.h"

namespace ts::scheduler {

PrefixIndex::PrefixIndex(PagePool& pool, int page_size)
    : pool_(&pool),
      page_size_(static_cast<std::size_t>(page_size)),
      entries_(static_cast<std::size_t>(pool.total())),
      tokens_(entries_.size() * page_size_),
      buckets_(std::bit_ceil(entries_.size() * 2), kNone),
      unused_(entries_.size()),
      node_of_page_(entries_.size(), kNone) {
    std::iota(unused_.rbegin(), unused_.rend(), 0);
}

PrefixIndex::~PrefixIndex() {
    while (evict()) {
    }
}

std::span<const Token> PrefixIndex::tokens(Node node) const {
    return std::span(tokens_).subspan(static_cast<std::size_t>(node) * page_size_, page_size_);
}

std::optional<PrefixIndex::Node> PrefixIndex::find(const BlockKey& key) const {
    for (Node node = buckets_[bucket(key.digest)]; node != kNone; node = at(node).next_in_bucket) {
        const Entry& entry = at(node);
        if (entry.digest == key.digest && entry.parent == key.parent &&
            (key.parent != kRoot || entry.salt == key.salt) && std::ranges::equal(tokens(node), key.tokens)) {
            return node;
        }
    }
    return std::nullopt;
}

void PrefixIndex::prefetch_block(Digest digest) const {
    const Node node = buckets_[bucket(digest)];
    if (node == kNone) {
        return;
    }
    __builtin_prefetch(&at(node));
    const auto block = std::as_bytes(tokens(node));
    for (std::size_t line = 0; line < block.size(); line += alignof(Entry)) {
        __builtin_prefetch(block.data() + line);
    }
}

SharedPage PrefixIndex::share(Node node, Retention retention) {
    const SharedPage& page = page_of(node);
    SharedPage share = page.share();
    pool_->touch(page.id(), retention);
    return share;
}

PrefixIndex::Published PrefixIndex::publish(const BlockKey& key, const SharedPage& page,
                                            Retention retention) {
    if (const auto equal = find(key)) {
        if (is_idle(*equal)) {
            replace(*equal, page, retention);
            return {.node = *equal, .alias = std::nullopt};
        }
        return {.node = *equal, .alias = share(*equal, retention)};
    }
    invariant(!unused_.empty(), "there are as many nodes as pages");
    const Node node = unused_.back();
    unused_.pop_back();
    Entry& entry = at(node);
    entry.page.emplace(page.share());
    entry.digest = key.digest;
    entry.salt = key.salt;
    entry.parent = key.parent;
    entry.children = 0;
    entry.next_in_bucket = std::exchange(buckets_[bucket(key.digest)], node);
    std::ranges::copy(key.tokens,
                      tokens_.begin() + static_cast<std::ptrdiff_t>(node) * std::ssize(key.tokens));
    node_of_page_[static_cast<std::size_t>(page.id())] = node;
    pool_->list(page.id(), retention);
    if (key.parent != kRoot && ++at(key.parent).children == 2) {
        mark_shared(key.parent);
    }
    return {.node = node, .alias = std::nullopt};
}

void PrefixIndex::replace(Node node, const SharedPage& page, Retention retention) {
    const PageId replaced = page_of(node).id();
    const Retention worth = std::max(retention, pool_->retention(replaced));
    pool_->unlist(replaced);
    node_of_page_[static_cast<std::size_t>(replaced)] = kNone;
    at(node).page.emplace(page.share());
    node_of_page_[static_cast<std::size_t>(page.id())] = node;
    pool_->list(page.id(), worth);
}

// Each block is marked once, so the walks of a block's life add up to one step.
void PrefixIndex::mark_shared(Node node) {
    for (; node != kRoot; node = at(node).parent) {
        const PageId page = page_of(node).id();
        if (pool_->retention(page) == Retention::shared) {
            return;
        }
        pool_->touch(page, Retention::shared);
    }
}

bool PrefixIndex::evict() {
    const PageId page = pool_->idle_pages().next();
    if (page == IdlePages::kNone) {
        return false;
    }
    const Node node = std::exchange(node_of_page_[static_cast<std::size_t>(page)], kNone);
    Entry& entry = at(node);
    invariant(entry.children == 0, "the block whose turn it is is a leaf");
    unlink(node);
    if (entry.parent != kRoot) {
        --at(entry.parent).children;
    }
    pool_->unlist(page);
    pool_->count_eviction();
    entry.page.reset();
    ++entry.generation;
    unused_.push_back(node);
    return true;
}

void PrefixIndex::unlink(Node node) {
    std::int32_t* link = &buckets_[bucket(at(node).digest)];
    while (*link != node) {
        link = &at(*link).next_in_bucket;
    }
    *link = at(node).next_in_bucket;
}

std::vector<PageId> PrefixIndex::pages() const {
    std::vector<PageId> result;
    for (const Entry& entry : entries_) {
        if (entry.page) {
            result.push_back(entry.page->id());
        }
    }
    return result;
}

std::vector<Digest> PrefixIndex::digests() const {
    std::vector<Digest> result;
    for (const Entry& entry : entries_) {
        if (entry.page) {
            result.push_back(entry.digest);
        }
    }
    return result;
}

}  // namespace ts::scheduler
