#include "cache/prefix_index.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "cache/cache_groups.h"
#include "invariant.h"

namespace ts::scheduler {

PrefixIndex::PrefixIndex(PagePool& pool, Pool<Host>& host, int page_size)
    : pool_(&pool),
      host_(&host),
      page_size_(static_cast<std::size_t>(page_size)),
      entries_(static_cast<std::size_t>(pool.total()) + static_cast<std::size_t>(host.total())),
      rests_(entries_.size()),
      tokens_(entries_.size() * page_size_),
      buckets_(std::bit_ceil(entries_.size() * 2), kNone),
      unused_(entries_.size()),
      node_of_page_(static_cast<std::size_t>(pool.total()), kNone),
      node_of_copy_(static_cast<std::size_t>(host.total()), kNone) {
    std::iota(unused_.rbegin(), unused_.rend(), 0);
}

PrefixIndex::~PrefixIndex() {
    groups_ = nullptr;  // they are gone
    while (evict() || evict_copy()) {
    }
}

std::span<const Token> PrefixIndex::tokens(Node node) const {
    return std::span(tokens_).subspan(static_cast<std::size_t>(node) * page_size_, page_size_);
}

std::optional<PrefixIndex::Node> PrefixIndex::find(const BlockKey& key) const {
    for (Node node = buckets_[bucket(key.digest)]; node != kNone; node = at(node).next_in_bucket) {
        const Entry& entry = at(node);
        if (entry.digest == key.digest && entry.parent == key.parent &&
            (key.parent != kRoot || rest(node).salt == key.salt) &&
            std::ranges::equal(tokens(node), key.tokens)) {
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
        if (!on_device(*equal)) {
            put(*equal, page, retention);
            return {.node = *equal, .alias = std::nullopt};
        }
        if (is_idle(*equal)) {
            replace(*equal, page, retention);
            return {.node = *equal, .alias = std::nullopt};
        }
        return {.node = *equal, .alias = share(*equal, retention)};
    }
    const Node node = take(key);
    put(node, page, retention);
    return {.node = node, .alias = std::nullopt};
}

// A node for a block that has none.
PrefixIndex::Node PrefixIndex::take(const BlockKey& key) {
    invariant(!unused_.empty(), "there are as many nodes as pages");
    const Node node = unused_.back();
    unused_.pop_back();
    Entry& entry = at(node);
    entry.digest = key.digest;
    rest(node).salt = key.salt;
    entry.first_child = kNone;
    entry.on_device_below = 0;
    entry.next_in_bucket = std::exchange(buckets_[bucket(key.digest)], node);
    std::ranges::copy(key.tokens,
                      tokens_.begin() + static_cast<std::ptrdiff_t>(node) * std::ssize(key.tokens));
    adopt(key.parent, node);
    return node;
}

// The block is on the device from now on.
void PrefixIndex::put(Node node, const SharedPage& page, Retention retention) {
    Entry& entry = at(node);
    entry.page.emplace(page.share());
    node_of_page_[static_cast<std::size_t>(page.id())] = node;
    pool_->list(page.id(), retention);
    if (entry.parent != kRoot) {
        ++at(entry.parent).on_device_below;
    }
    if (has_copy(node)) {
        if (host_->free() > 0) {
            host_->mark(copy_of(node).id(), Retention::shared);
        } else {
            drop_copy(node);
        }
    }
    if (entry.first_child != kNone && at(entry.first_child).next_sibling != kNone) {
        mark_shared(node);
    } else if (entry.parent != kRoot && (entry.next_sibling != kNone || entry.previous_sibling != kNone)) {
        mark_shared(entry.parent);
    }
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

void PrefixIndex::adopt(Node parent, Node child) {
    Entry& entry = at(child);
    entry.parent = parent;
    entry.previous_sibling = entry.next_sibling = kNone;
    if (parent == kRoot) {
        return;
    }
    entry.next_sibling = std::exchange(at(parent).first_child, child);
    if (entry.next_sibling != kNone) {
        at(entry.next_sibling).previous_sibling = child;
    }
}

void PrefixIndex::leave(Node child) {
    const Entry& entry = at(child);
    if (entry.next_sibling != kNone) {
        at(entry.next_sibling).previous_sibling = entry.previous_sibling;
    }
    if (entry.previous_sibling != kNone) {
        at(entry.previous_sibling).next_sibling = entry.next_sibling;
    } else if (entry.parent != kRoot) {
        at(entry.parent).first_child = entry.next_sibling;
    }
}

bool PrefixIndex::evict() {
    const PageId page = pool_->idle_pages().next();
    if (page == IdlePages::kNone) {
        return false;
    }
    const Node node = node_of_page_[static_cast<std::size_t>(page)];
    pool_->count_eviction();
    if (has_copy(node)) {
        drop_children_on_device(node);
        host_->mark(copy_of(node).id(), Retention::once);
        leave_device(node);
    } else {
        drop(node);
    }
    return true;
}

void PrefixIndex::leave_device(Node node) {
    Entry& entry = at(node);
    const PageId page = page_of(node).id();
    node_of_page_[static_cast<std::size_t>(page)] = kNone;
    pool_->unlist(page);
    entry.page.reset();
    if (groups_ != nullptr) {
        groups_->forget(node);
    }
    ++entry.generation;
    if (entry.parent != kRoot) {
        --at(entry.parent).on_device_below;
    }
}

// An idle block has children on the device only while these are being copied.
void PrefixIndex::drop_children_on_device(Node node) {
    for (Node child = at(node).first_child; at(node).on_device_below > 0;) {
        const Node next = at(child).next_sibling;
        if (on_device(child)) {
            drop(child);
        }
        child = next;
    }
}

// Forgets a block that nobody holds, and with it those below: nobody holds them either, and without it they
// cannot be reached.
void PrefixIndex::drop(Node node) {
    leave(node);
    const Node root = node;
    while (true) {
        while (at(node).first_child != kNone) {
            node = at(node).first_child;
        }
        const Node parent = at(node).parent;
        const bool done = node == root;
        if (!done) {
            leave(node);
        }
        forget(node);
        if (done) {
            return;
        }
        node = parent;
    }
}

void PrefixIndex::forget(Node node) {
    unlink(node);
    if (on_device(node)) {
        leave_device(node);
    }
    drop_copy(node);
    ++at(node).generation;
    unused_.push_back(node);
}

void PrefixIndex::unlink(Node node) {
    std::int32_t* link = &buckets_[bucket(at(node).digest)];
    while (*link != node) {
        link = &at(*link).next_in_bucket;
    }
    *link = at(node).next_in_bucket;
}

std::vector<PrefixIndex::Node> PrefixIndex::without_copy(int within, std::size_t most) const {
    std::vector<Node> result;
    for (const PageId page : pool_->idle_pages().first(within)) {
        const Node node = node_of_page_[static_cast<std::size_t>(page)];
        if (result.size() < most && !has_copy(node) && pool_->retention(page) != Retention::once) {
            result.push_back(node);
        }
    }
    return result;
}

void PrefixIndex::attach(Node node, const Shared<Host>& copy) {
    rest(node).copy.emplace(copy.share());
    node_of_copy_[static_cast<std::size_t>(copy.id())] = node;
    host_->list(copy.id(), Retention::shared);
}

void PrefixIndex::hand_back(SharedPage page, IdlePages::Place place) {
    const PageId id = page.id();
    {
        const SharedPage given_back = std::move(page);
    }
    pool_->return_to(id, place);
}

void PrefixIndex::drop_copy(Node node) {
    if (!has_copy(node)) {
        return;
    }
    const PageId copy = copy_of(node).id();
    node_of_copy_[static_cast<std::size_t>(copy)] = kNone;
    host_->unlist(copy);
    rest(node).copy.reset();
}

bool PrefixIndex::evict_copy() {
    const PageId copy = host_->idle_pages().next();
    if (copy == IdlePages::kNone) {
        return false;
    }
    const Node node = node_of_copy_[static_cast<std::size_t>(copy)];
    if (!on_device(node)) {
        drop(node);
    } else if (host_->idle_pages().time_left(copy) < 0) {
        drop_copy(node);
    } else {
        return false;
    }
    host_->count_eviction();
    return true;
}

std::vector<PrefixIndex::Copy> PrefixIndex::copies() const {
    std::vector<Copy> result;
    for (Node node = 0; node < std::ssize(entries_); ++node) {
        if (has_copy(node)) {
            const Entry& entry = at(node);
            result.push_back({copy_of(node).id(), entry.digest, entry.page ? entry.page->id() : -1});
        }
    }
    return result;
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
