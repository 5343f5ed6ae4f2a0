#pragma once

#include <optional>

#include "cache/cache_groups.h"
#include "cache/page_pool.h"
#include "cache/prefix_index.h"

namespace ts::scheduler {

// The pools of device and host pages, and the index over them. With the index off nothing is ever listed, so
// nothing is idle.
class KvCache {
 public:
    // Pages of sessions count as recent for `recent_steps` after they become idle.
    KvCache(int num_pages, int page_size, bool reuse, int recent_steps = 0, int host_pages = 0)
        : page_size_(page_size),
          reuse_(reuse),
          pool_(num_pages, recent_steps),
          host_(host_pages),
          index_(pool_, host_, page_size) {}

    // For a scheduler: with the groups beside full attention, if there are any.
    explicit KvCache(const Config& config)
        : KvCache(config.num_pages, config.page_size, config.prefix_caching, config.tool_wait_steps,
                  config.host_pages) {
        if (!config.groups.empty()) {
            groups_.emplace(config, index_.capacity());
            index_.watch(*groups_);
        }
    }

    [[nodiscard]] int page_size() const { return page_size_; }
    [[nodiscard]] bool reuse() const { return reuse_; }
    [[nodiscard]] PrefixIndex& index() { return index_; }
    [[nodiscard]] const PrefixIndex& index() const { return index_; }
    [[nodiscard]] const PagePool& pool() const { return pool_; }
    [[nodiscard]] const Pool<Host>& host() const { return host_; }
    // Null without any.
    [[nodiscard]] CacheGroups* groups() { return groups_ ? &*groups_ : nullptr; }
    [[nodiscard]] const CacheGroups* groups() const { return groups_ ? &*groups_ : nullptr; }

    // Pages that an allocation can have, idle ones included.
    [[nodiscard]] int available() const { return pool_.free() + pool_.idle(); }
    [[nodiscard]] int used() const { return pool_.total() - available(); }

    // A step passes.
    void step() { pool_.step(); }

    // A page to write: a free one, or the longest idle one.
    [[nodiscard]] std::optional<WritablePage> allocate() {
        if (pool_.free() == 0) {
            index_.evict();
        }
        return pool_.allocate();
    }
    // A host page for a copy: a free one, or that of the block that has gone unused for longest.
    [[nodiscard]] std::optional<Writable<Host>> allocate_copy() {
        if (host_.free() == 0) {
            index_.evict_copy();
        }
        return host_.allocate();
    }

 private:
    int page_size_;
    bool reuse_;
    PagePool pool_;
    Pool<Host> host_;
    PrefixIndex index_;
    std::optional<CacheGroups> groups_;
};

}  // namespace ts::scheduler
