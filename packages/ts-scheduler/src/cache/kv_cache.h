#pragma once

#include <optional>

#include "cache/page_pool.h"
#include "cache/prefix_index.h"

namespace ts::scheduler {

// The pool and the index over it. With the index off nothing is ever listed, so nothing is idle.
class KvCache {
 public:
    // Pages of sessions count as recent for `recent_steps` after they become idle.
    KvCache(int num_pages, int page_size, bool reuse, int recent_steps = 0)
        : page_size_(page_size), reuse_(reuse), pool_(num_pages, recent_steps), index_(pool_, page_size) {}

    [[nodiscard]] int page_size() const { return page_size_; }
    [[nodiscard]] bool reuse() const { return reuse_; }
    [[nodiscard]] PrefixIndex& index() { return index_; }
    [[nodiscard]] const PrefixIndex& index() const { return index_; }
    [[nodiscard]] const PagePool& pool() const { return pool_; }

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

 private:
    int page_size_;
    bool reuse_;
    PagePool pool_;
    PrefixIndex index_;
};

}  // namespace ts::scheduler
