#include "policy/admission_gate.h"

#include <algorithm>
#include <ranges>

#include "invariant.h"

namespace ts::scheduler {
namespace {

constexpr int kMostLooks = 8;  // past the first in line, for each time that something has changed

}  // namespace

void AdmissionGate::inspect(Request& request) const {
    if (!cache_->reuse()) {
        return;
    }
    request.match.refresh(cache_->index(), request.sequence, cache_->page_size(), cache_->groups());
    request.continues = request.match.continues(cache_->index());
    if (request.continues) {
        request.retention = Retention::session;
    }
    keep(request);
}

void AdmissionGate::await_again(Request& request) {
    book_->move_to_waiting(request);
    if (cache_->reuse()) {
        request.match.refresh(cache_->index(), request.sequence, cache_->page_size(), cache_->groups());
        keep(request);
    }
}

// What the request has found is worth as much as a session's from now on.
void AdmissionGate::keep(Request& request) const {
    for (const PrefixIndex::Node node : request.match.copies() | std::views::reverse) {
        cache_->index().touch_copy(node);
    }
    for (int i = request.match.size(); i-- > 0;) {  // children before parents
        cache_->index().touch(request.match.node(i), Retention::session);
    }
    if (CacheGroups* groups = cache_->groups()) {
        groups->touch(request.match.prefix(), Retention::session);
    }
}

Request* AdmissionGate::admit(const StepShape& decodes) {
    if (book_->running().empty()) {
        held_ = no_room_ = false;
    }
    if (held_ || book_->waiting().empty() || slots_->empty() || (no_room_ && blocked_for() < patience_)) {
        return nullptr;
    }
    Request* request = next();
    if (request == nullptr) {
        invariant(!book_->running().empty() || transfers_->any(),
                  "a request alone fits: submit() checked it");
        no_room_ = true;
        return nullptr;
    }
    if (!floor_->admits(decodes, request->sequence.size())) {
        return nullptr;
    }
    enter(*request);
    return request;
}

std::int64_t AdmissionGate::blocked_for() const {
    if (book_->waiting().empty() || (*book_->waiting().begin())->arrival != blocked_) {
        return 0;
    }
    return std::min(steps_ - blocked_since_, patience_);
}

// The first in line; or while it waits for room, the first that goes on with a cached conversation.
Request* AdmissionGate::next() {
    Request& first = **book_->waiting().begin();
    if (fits(first)) {
        return &first;
    }
    if (blocked_ != first.arrival) {
        blocked_ = first.arrival;
        blocked_since_ = steps_;
    }
    int looks = kMostLooks;
    for (Request* continuing : book_->continuing()) {
        if (blocked_for() == patience_ || looks-- == 0) {
            break;
        }
        if (continuing != &first && fits(*continuing)) {
            return continuing;
        }
    }
    return nullptr;
}

int AdmissionGate::blocks_of(const Request& request) const {
    return (request.sequence.size() + cache_->page_size() - 1) / cache_->page_size();
}

bool AdmissionGate::fits(Request& request) {
    if (cache_->reuse()) {
        request.match.refresh(cache_->index(), request.sequence, cache_->page_size(), cache_->groups());
    }
    if (request.match.is_coming()) {
        return false;
    }
    const PagePool& pool = cache_->pool();
    const int reused = request.match.found();
    const int fresh = blocks_of(request) - request.match.size();
    const int idle_hits = request.match.idle(cache_->index());
    const int running = static_cast<int>(book_->running().size());
    if (fresh + idle_hits + running > cache_->available()) {
        return false;
    }
    const bool is_new = blocks_of(request) - reused > reused;
    if (!is_new || running == 0 || blocked_for() == patience_) {
        return true;
    }
    const int kept = std::max(pool.idle_pages().recent() - idle_hits, 0) + growth_room_;
    return fresh + idle_hits + running + kept <= cache_->available();
}

void AdmissionGate::enter(Request& request) {
    LeasePtr lease = lease_for(request);
    std::vector<WritablePage> pages = pages_for(request);
    count(request);
    request.due = 0;
    if (request.receives || !request.match.copies().empty()) {
        await_pages(request, std::move(lease), std::move(pages));
    } else {
        for (WritablePage& page : pages) {
            lease->blocks.append(std::move(page));
        }
        must_apply(request.state, Admit{std::move(lease)});
    }
    request.match.forget();
    book_->move_to_running(request);
}

LeasePtr AdmissionGate::lease_for(Request& request) {
    auto slot = slots_->take();
    if (!slot) {
        broken("a slot was checked for");
    }
    auto lease = std::make_unique<Lease>(request.id, *std::move(slot), request.retention);
    const int blocks = blocks_of(request);
    lease->blocks.reserve(blocks, blocks - request.match.size());
    for (int i = 0; i < request.match.size(); ++i) {
        const PrefixIndex::Node node = request.match.node(i);
        lease->blocks.append(node, cache_->index().share(node, Retention::session));
    }
    if (CacheGroups* groups = cache_->groups()) {
        lease->groups = groups->admit(request.match.prefix(), Retention::session);
    }
    lease->planned = lease->settled = static_cast<Position>(request.match.size()) * cache_->page_size();
    return lease;
}

std::vector<WritablePage> AdmissionGate::pages_for(Request& request) {
    std::vector<WritablePage> pages;
    const int count = blocks_of(request) - request.match.size();
    pages.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
        auto page = cache_->allocate();
        if (!page) {
            broken("room was checked for");
        }
        pages.push_back(*std::move(page));
    }
    return pages;
}

// Has the first of the pages filled by a transfer: those that a peer computes, or that have copies.
void AdmissionGate::await_pages(Request& request, LeasePtr lease, std::vector<WritablePage> pages) {
    const int hits = request.match.size();
    const bool receives = std::exchange(request.receives, false);
    const Position until = receives ? request.sequence.size() - 1 : found_tokens(request);
    const int filled = (until + cache_->page_size() - 1) / cache_->page_size() - hits;
    std::vector<Shared<Host>> sources;
    std::vector<PagePair> pairs;
    for (int i = 0; i < filled; ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (!receives) {
            sources.push_back(cache_->index().share_copy(request.match.copies()[at]));
        }
        pairs.push_back({.device = pages[at].id(), .host = receives ? -1 : sources[at].id()});
    }
    std::vector<WritablePage> rest(std::make_move_iterator(pages.begin() + filled),
                                   std::make_move_iterator(pages.end()));
    pages.erase(pages.begin() + filled, pages.end());
    Arrival arrival(until, std::move(pages), std::move(rest), std::move(sources));
    transfers_->start(receives ? TransferKind::receive : TransferKind::load, request, request.id, until,
                      std::move(pairs));
    if (receives) {
        must_apply(request.state, Receive{std::move(lease), std::move(arrival)});
    } else {
        must_apply(request.state, Load{std::move(lease), std::move(arrival)});
    }
}

Position AdmissionGate::found_tokens(const Request& request) const {
    return static_cast<Position>(request.match.found()) * cache_->page_size();
}

void AdmissionGate::count(Request& request) {
    if (++request.admissions > 1) {
        return;
    }
    request.cached_tokens = static_cast<Position>(request.match.size()) * cache_->page_size();
    turns_->serve(request.user, request.turn, request.sequence.size() - found_tokens(request));
    if (cache_->reuse()) {
        ++stats_->prefix_queries;
        stats_->prefix_hits += request.cached_tokens > 0 ? 1 : 0;
        stats_->prefix_query_tokens += request.sequence.size();
        stats_->prefix_hit_tokens += request.cached_tokens;
    }
}

}  // namespace ts::scheduler
