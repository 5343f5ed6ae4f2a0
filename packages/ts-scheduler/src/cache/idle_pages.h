#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cache/retention.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// The pages that only the prefix index holds, in the order in which they will be evicted; every call takes
// constant time.
//
// Each kind of block has a list, the longest idle first, and each page a deadline: the evictions up to when
// it became idle plus what its kind is worth. The next to go is the earliest deadline among the three heads:
// a session outlives the one-shot prompts of one turnover of the pool, a shared prefix those of four, and
// nothing stays for ever. Requests give their pages back last block first, and a parent is worth no less than
// its children, so a block always goes before its parent.
//
// Beside that, the pages of sessions that became idle within the last `recent_steps` steps are counted: their
// next turns are expected back, and new prompts leave them alone.
class IdlePages {
 public:
    static constexpr PageId kNone = -1;

    IdlePages(int num_pages, int recent_steps)
        : worth_{0, num_pages, std::int64_t{4} * num_pages},
          recent_steps_(recent_steps),
          links_(static_cast<std::size_t>(num_pages)) {}

    [[nodiscard]] int size() const { return sizes_[0] + sizes_[1] + sizes_[2]; }
    // Of sessions and shared prefixes, idle for less than `recent_steps` steps.
    [[nodiscard]] int recent() const { return recent_; }
    [[nodiscard]] std::int64_t evictions() const { return evictions_; }

    // The next to be evicted, or kNone.
    [[nodiscard]] PageId next() const;
    void insert(PageId page, Retention kind) noexcept;
    // Where a page stands: a lesser order has been idle for longer.
    struct Place {
        std::int64_t deadline = 0;
        std::int64_t order = 0;
        std::int64_t since = 0;
    };
    [[nodiscard]] Place place(PageId page) const {
        return {at(page).deadline, at(page).order, at(page).since};
    }
    // Back to where it stood. Takes as long as there are pages in front of it.
    void restore(PageId page, Retention kind, Place place) noexcept;
    void erase(PageId page) noexcept;
    void count_eviction() { ++evictions_; }
    // A step passes. Amortized constant time: each page stops being recent once.
    void step() noexcept;

    // The first of them (all of them), the next to be evicted first.
    [[nodiscard]] std::vector<PageId> first(int most) const;
    [[nodiscard]] std::vector<PageId> in_order() const { return first(size()); }
    // How many evictions from now the page's turn comes, if nothing changes; negative when it is due.
    [[nodiscard]] std::int64_t time_left(PageId page) const { return at(page).deadline - evictions_; }
    // Steps for which the page stays recent.
    [[nodiscard]] std::int64_t recent_for(PageId page) const {
        return is_recent(at(page)) ? at(page).since + recent_steps_ - steps_ : 0;
    }

 private:
    struct Link {
        PageId older = kNone;
        PageId newer = kNone;
        std::int64_t deadline = 0;
        std::int64_t order = 0;
        std::int64_t since = 0;
        Retention kind = Retention::once;
    };
    [[nodiscard]] bool is_recent(const Link& link) const {
        return link.kind != Retention::once && link.since + recent_steps_ > steps_;
    }
    [[nodiscard]] Link& at(PageId page) { return links_[static_cast<std::size_t>(page)]; }
    [[nodiscard]] const Link& at(PageId page) const { return links_[static_cast<std::size_t>(page)]; }
    void count_recent(PageId page, std::size_t list) noexcept;
    [[nodiscard]] PageId earliest(const std::array<PageId, kRetentions>& heads) const;

    std::array<std::int64_t, kRetentions> worth_;
    std::int64_t recent_steps_;
    std::vector<Link> links_;
    std::array<PageId, kRetentions> oldest_{kNone, kNone, kNone};
    std::array<PageId, kRetentions> newest_{kNone, kNone, kNone};
    std::array<int, kRetentions> sizes_{};
    std::array<PageId, kRetentions> oldest_recent_{kNone, kNone, kNone};
    int recent_ = 0;
    std::int64_t evictions_ = 0;
    std::int64_t inserted_ = 0;
    std::int64_t steps_ = 0;
};

}  // namespace ts::scheduler
