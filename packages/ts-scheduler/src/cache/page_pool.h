#pragma once

#include <optional>
#include <vector>

#include "cache/idle_pages.h"
#include "cache/page.h"
#include "cache/retention.h"

namespace ts::scheduler {

class PrefixIndex;
template <class Memory>
class Attachments;

// All pages of one memory of a worker: free, or counted by the handles that hold them.
//
// A page that the prefix index lists and nobody else holds is idle: still readable, and to be had (see
// IdlePages). Whoever holds a block holds its ancestors, so below an idle block everything is idle.
template <class Memory>
class Pool {
 public:
    explicit Pool(int num_pages, int recent_steps = 0);
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    Pool(Pool&&) = delete;
    Pool& operator=(Pool&&) = delete;
    ~Pool() = default;

    // A free page, or nothing. Idle pages are the prefix index's to evict first (see KvCache).
    [[nodiscard]] std::optional<Writable<Memory>> allocate();

    [[nodiscard]] int total() const { return static_cast<int>(pages_.size()); }
    [[nodiscard]] int free() const { return static_cast<int>(free_.size()); }
    [[nodiscard]] int idle() const { return idle_.size(); }
    [[nodiscard]] std::int64_t evictions() const { return idle_.evictions(); }
    [[nodiscard]] bool is_idle(PageId page) const { return at(page).listed && at(page).references == 1; }
    [[nodiscard]] int references(PageId page) const { return at(page).references; }
    [[nodiscard]] const std::vector<PageId>& free_pages() const { return free_; }
    void step() { idle_.step(); }
    [[nodiscard]] const IdlePages& idle_pages() const { return idle_; }
    [[nodiscard]] Retention retention(PageId page) const { return at(page).retention; }

 private:
    friend class Writable<Memory>;
    friend class Shared<Memory>;
    friend class PrefixIndex;
    friend class Attachments<Memory>;

    struct Page {
        int references = 0;
        bool listed = false;     // in the prefix index
        bool asked_for = false;  // since leave_place()
        Retention retention = Retention::once;
    };

    void reference(PageId page);
    void dereference(PageId page) noexcept;
    void list(PageId page, Retention retention);
    void unlist(PageId page);
    // A listed page is worth at least this from now on; if it is idle, from now on anew.
    void touch(PageId page, Retention retention);
    // It is worth exactly this from now on.
    void mark(PageId page, Retention retention);
    // An idle page that is about to be shared for copying: where it stands.
    [[nodiscard]] IdlePages::Place leave_place(PageId page);
    // It is idle again: it stands where it stood, if nobody has asked for it meanwhile.
    void return_to(PageId page, IdlePages::Place place);
    void count_eviction() { idle_.count_eviction(); }
    [[nodiscard]] Page& at(PageId page) { return pages_[static_cast<std::size_t>(page)]; }
    [[nodiscard]] const Page& at(PageId page) const { return pages_[static_cast<std::size_t>(page)]; }

    std::vector<Page> pages_;
    std::vector<PageId> free_;
    IdlePages idle_;
};

using PagePool = Pool<Device>;

}  // namespace ts::scheduler
