#include "policy/admission_gate.h"

#include <algorithm>

#include "invariant.h"

namespace ts::scheduler {
namespace {

constexpr int kMostLooks = 8;  // past the first in line, for each time that something has changed

}  // namespace

void AdmissionGate::inspect(Request& request) const {
    if (!cache_->reuse()) {
        return;
    }
    request.match.refresh(cache_->index(), request.sequence, cache_->page_size());
    request.continues = request.match.continues(cache_->index());
    if (request.continues) {
        request.retention = Retention::session;
    }
    for (int i = request.match.size(); i-- > 0;) {  // children before parents
        cache_->index().touch(request.match.node(i), Retention::session);
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
        invariant(!book_->running().empty(), "a request alone fits: submit() checked it");
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
        request.match.refresh(cache_->index(), request.sequence, cache_->page_size());
    }
    const PagePool& pool = cache_->pool();
    const int reused = request.match.size();
    const int fresh = blocks_of(request) - reused;
    const int idle_hits = request.match.idle(cache_->index());
    const int running = static_cast<int>(book_->running().size());
    if (fresh + idle_hits + running > cache_->available()) {
        return false;
    }
    const bool is_new = fresh > reused;
    if (!is_new || running == 0 || blocked_for() == patience_) {
        return true;
    }
    const int kept = std::max(pool.idle_pages().recent() - idle_hits, 0) + growth_room_;
    return fresh + idle_hits + running + kept <= cache_->available();
}

void AdmissionGate::enter(Request& request) {
    LeasePtr lease = lease_for(request);
    count(request);
    request.match.forget();
    request.due = 0;
    must_apply(request.state, Admit{std::move(lease)});
    book_->move_to_running(request);
}

LeasePtr AdmissionGate::lease_for(Request& request) {
    auto slot = slots_->take();
    if (!slot) {
        broken("a slot was checked for");
    }
    auto lease = std::make_unique<Lease>(*std::move(slot), request.retention);
    const int blocks = blocks_of(request);
    lease->blocks.reserve(blocks, blocks - request.match.size());
    for (int i = 0; i < request.match.size(); ++i) {
        const PrefixIndex::Node node = request.match.node(i);
        lease->blocks.append(node, cache_->index().share(node, Retention::session));
    }
    while (lease->blocks.size() < blocks) {
        auto page = cache_->allocate();
        if (!page) {
            broken("room was checked for");
        }
        lease->blocks.append(*std::move(page));
    }
    lease->planned = lease->settled = static_cast<Position>(request.match.size()) * cache_->page_size();
    return lease;
}

void AdmissionGate::count(Request& request) {
    if (request.admitted_before) {
        return;
    }
    request.admitted_before = true;
    request.cached_tokens = static_cast<Position>(request.match.size()) * cache_->page_size();
    turns_->serve(request.user, request.turn, request.sequence.size() - request.cached_tokens);
    if (cache_->reuse()) {
        ++stats_->prefix_queries;
        stats_->prefix_hits += request.cached_tokens > 0 ? 1 : 0;
        stats_->prefix_query_tokens += request.sequence.size();
        stats_->prefix_hit_tokens += request.cached_tokens;
    }
}

}  // namespace ts::scheduler
