#include "cache/idle_pages.h"

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
                .order = ++inserted_,
                .since = steps_,
                .kind = kind};
    (newest_[list] == kNone ? oldest_[list] : at(newest_[list]).newer) = page;
    newest_[list] = page;
    ++sizes_[list];
    count_recent(page, list);
}

void IdlePages::count_recent(PageId page, std::size_t list) noexcept {
    if (!is_recent(at(page))) {
        return;
    }
    ++recent_;
    PageId& oldest = oldest_recent_[list];
    if (oldest == kNone || at(page).order < at(oldest).order) {
        oldest = page;
    }
}

void IdlePages::restore(PageId page, Retention kind, Place place) noexcept {
    const auto list = static_cast<std::size_t>(kind);
    PageId newer = oldest_[list];
    while (newer != kNone && at(newer).order < place.order) {
        newer = at(newer).newer;
    }
    const PageId older = newer == kNone ? newest_[list] : at(newer).older;
    at(page) = {.older = older,
                .newer = newer,
                .deadline = place.deadline,
                .order = place.order,
                .since = place.since,
                .kind = kind};
    (older == kNone ? oldest_[list] : at(older).newer) = page;
    (newer == kNone ? newest_[list] : at(newer).older) = page;
    ++sizes_[list];
    count_recent(page, list);
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
