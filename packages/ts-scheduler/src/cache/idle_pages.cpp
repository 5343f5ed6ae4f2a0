#include "cache/idle_pages.h"

#include <algorithm>

namespace ts::scheduler {

PageId IdlePages::earliest(const std::array<PageId, kRetentions>& heads) const {
    PageId result = kNone;
    for (const PageId head : heads) {  // of equal deadlines the lesser kind goes first: it may be the child
        if (head != kNone && (result == kNone || at(head).deadline < at(result).deadline)) {
            result = head;
        }
    }
    return result;
}

PageId IdlePages::next() const { return earliest(oldest_); }

void IdlePages::insert(PageId page, Retention kind) noexcept {
    const auto list = static_cast<std::size_t>(kind);
    at(page) = {.older = newest_[list],
                .newer = kNone,
                .deadline = evictions_ + worth_[list],
                .since = steps_,
                .kind = kind};
    (newest_[list] == kNone ? oldest_[list] : at(newest_[list]).newer) = page;
    newest_[list] = page;
    ++sizes_[list];
    if (is_recent(at(page))) {
        ++recent_;
        if (oldest_recent_[list] == kNone) {
            oldest_recent_[list] = page;
        }
    }
}

void IdlePages::insert_first(PageId page, Retention kind, std::int64_t deadline) noexcept {
    const auto list = static_cast<std::size_t>(kind);
    const PageId head = oldest_[list];
    at(page) = {.older = kNone,
                .newer = head,
                .deadline = head == kNone ? deadline : std::min(deadline, at(head).deadline),
                .since = steps_ - recent_steps_,
                .kind = kind};
    (head == kNone ? newest_[list] : at(head).older) = page;
    oldest_[list] = page;
    ++sizes_[list];
}

void IdlePages::erase(PageId page) noexcept {
    const Link& link = at(page);
    const auto list = static_cast<std::size_t>(link.kind);
    (link.older == kNone ? oldest_[list] : at(link.older).newer) = link.newer;
    (link.newer == kNone ? newest_[list] : at(link.newer).older) = link.older;
    --sizes_[list];
    if (is_recent(link)) {
        --recent_;
        if (oldest_recent_[list] == page) {
            oldest_recent_[list] = link.newer;
        }
    }
}

void IdlePages::step() noexcept {
    ++steps_;
    for (PageId& page : oldest_recent_) {
        while (page != kNone && !is_recent(at(page))) {
            page = at(page).newer;
            --recent_;
        }
    }
}

std::vector<PageId> IdlePages::first(int most) const {
    std::vector<PageId> result;
    auto heads = oldest_;
    for (PageId page = earliest(heads); page != kNone && most-- > 0; page = earliest(heads)) {
        result.push_back(page);
        heads[static_cast<std::size_t>(at(page).kind)] = at(page).newer;
    }
    return result;
}

}  // namespace ts::scheduler
