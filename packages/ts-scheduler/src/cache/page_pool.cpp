#include "cache/page_pool.h"

#include <algorithm>
#include <numeric>

#include "invariant.h"

namespace ts::scheduler {

template <class Memory>
void Writable<Memory>::give_back() noexcept {
    std::exchange(pool_, nullptr)->dereference(id_);
}

template <class Memory>
Shared<Memory> Writable<Memory>::end_writing() {
    invariant(pool_ != nullptr, "a page is sealed once");
    return {*std::exchange(pool_, nullptr), id_};
}

template <class Memory>
void Shared<Memory>::give_back() noexcept {
    std::exchange(pool_, nullptr)->dereference(id_);
}

template <class Memory>
Shared<Memory> Shared<Memory>::share() const {
    invariant(pool_ != nullptr, "a shared page is held");
    pool_->reference(id_);
    return {*pool_, id_};
}

template <class Memory>
Pool<Memory>::Pool(int num_pages, int recent_steps)
    : pages_(static_cast<std::size_t>(num_pages)), free_(pages_.size()), idle_(num_pages, recent_steps) {
    std::iota(free_.rbegin(), free_.rend(), 0);
}

template <class Memory>
std::optional<Writable<Memory>> Pool<Memory>::allocate() {
    if (free_.empty()) {
        return std::nullopt;
    }
    const PageId page = free_.back();
    free_.pop_back();
    at(page).references = 1;
    return Writable<Memory>(*this, page);
}

template <class Memory>
void Pool<Memory>::reference(PageId page) {
    if (is_idle(page)) {
        idle_.erase(page);
    }
    ++at(page).references;
}

template <class Memory>
void Pool<Memory>::dereference(PageId page) noexcept {
    Page& entry = at(page);
    invariant(entry.references > 0, "a page is given back by who holds it");
    if (--entry.references == 0) {
        invariant(!entry.listed, "a listed page is held by the index");
        free_.push_back(page);
    } else if (entry.references == 1 && entry.listed) {
        idle_.insert(page, entry.retention);
    }
}

template <class Memory>
void Pool<Memory>::list(PageId page, Retention retention) {
    Page& entry = at(page);
    invariant(!entry.listed, "a page is listed once");
    invariant(entry.references > 1, "a page is listed by who holds it");
    entry.listed = true;
    entry.retention = retention;
}

template <class Memory>
void Pool<Memory>::unlist(PageId page) {
    if (is_idle(page)) {
        idle_.erase(page);
    }
    at(page).listed = false;
}

template <class Memory>
void Pool<Memory>::touch(PageId page, Retention retention) {
    mark(page, std::max(at(page).retention, retention));
}

template <class Memory>
void Pool<Memory>::mark(PageId page, Retention retention) {
    Page& entry = at(page);
    invariant(entry.listed, "a block is worth something while it is listed");
    entry.retention = retention;
    entry.asked_for = true;
    if (is_idle(page)) {
        idle_.erase(page);
        idle_.insert(page, retention);
    }
}

template <class Memory>
IdlePages::Place Pool<Memory>::leave_place(PageId page) {
    at(page).asked_for = false;
    return idle_.place(page);
}

template <class Memory>
void Pool<Memory>::return_to(PageId page, IdlePages::Place place) {
    if (is_idle(page) && !at(page).asked_for) {
        idle_.erase(page);
        idle_.restore(page, at(page).retention, place);
    }
}

template class Writable<Device>;
template class Writable<Window>;
template class Writable<RunningState>;
template class Writable<Host>;
template class Shared<Device>;
template class Shared<Window>;
template class Shared<RunningState>;
template class Shared<Host>;
template class Pool<Device>;
template class Pool<Window>;
template class Pool<RunningState>;
template class Pool<Host>;

}  // namespace ts::scheduler
