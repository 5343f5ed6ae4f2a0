#include "policy/planner.h"

#include <algorithm>

#include "invariant.h"

namespace ts::scheduler {
namespace {

template <class S>
constexpr bool kLeaves = std::is_same_v<S, YieldingArrival>;
template <int Depth>
constexpr bool kLeaves<Draining<Depth>> = true;
template <int Depth>
constexpr bool kLeaves<Yielding<Depth>> = true;

// The request's steps in flight are its last for now, or it has been told to give way: its pages return soon.
[[nodiscard]] bool is_leaving(const State& state) {
    return std::visit([]<class S>(const S&) { return kLeaves<S>; }, state);
}

template <class S>
constexpr int kDecodes = 0;
template <int Depth>
constexpr int kDecodes<InFlight<Decoding, Depth>> = Depth;

// Steps under way that have a token of the answer.
[[nodiscard]] int decodes_under_way(const State& state) {
    return std::visit([]<class S>(const S&) { return kDecodes<S>; }, state);
}

[[nodiscard]] bool can_give_way(const State& state) {
    return lease_if_takes<Preempt>(state) != nullptr || lease_if_takes<Yield>(state) != nullptr;
}

}  // namespace

bool Planner::fill(StepPlan& plan) {
    StepBuilder step(plan, cache_->page_size(), cache_->groups());
    budget_ = chunk_tokens_;
    ledger_->begin();
    floor_->begin(ledger_->seconds_under_way(floor_->cost()));
    gate_->on_step();
    decode_all(step);
    order_.apply(plan, ledger_->rows());
    continue_prompts(step);
    start_prompts(step);
    write_back_->step();
    return !plan.rows.empty();
}

void Planner::decode_all(StepBuilder& step) {
    const auto& running = book_->running();
    for (std::size_t i = 0; i < running.size();) {
        Request& request = *running[i];
        decode(step, request);
        if (i < running.size() && running[i] == &request) {
            ++i;
        } else {  // somebody was preempted for want of a page
            i = book_->after(request);
        }
    }
}

void Planner::decode(StepBuilder& step, Request& request) {
    const Lease* lease = lease_if_takes<PlanDecode>(request.state);
    if (lease == nullptr || lease->planned >= request.sequence.computable() || request.sends) {
        return;
    }
    const Position count = reserve(request, *lease);
    if (count == 0) {
        return;
    }
    ledger_->shape().add_decode(lease->planned + count);
    if (floor_->on()) {
        floor_->expect(request.due, decodes_under_way(request.state));
    }
    must_apply(request.state, PlanDecode{step, count, pages_});
    ledger_->rows().push_back({&request, count, true, false, count - 1});
    budget_ -= count;
}

// Positions for a decode and its drafts, with pages for those that begin one; 0 when there is none for the
// first. Drafts take no page from anybody, nor the last ones that those who run may soon need.
Position Planner::reserve(const Request& request, const Lease& lease) {
    pages_.clear();
    const Position size = cache_->page_size();
    Position room = lease.blocks.size() * size - lease.planned;
    if (room == 0) {
        auto page = page_for(request);
        if (!page) {
            return 0;
        }
        pages_.push_back(*std::move(page));
        room = size;
    }
    const Position most = 1 + std::min(draft_tokens_, request.sequence.computable() - lease.planned - 1);
    while (room < most && cache_->available() > std::ssize(book_->running())) {
        auto page = cache_->allocate();
        if (!page) {
            break;
        }
        pages_.push_back(*std::move(page));
        room += size;
    }
    return std::min(room, most);
}

void Planner::continue_prompts(StepBuilder& step) {
    for (Request* request : book_->running()) {
        if (budget_ == 0) {
            return;
        }
        if (lease_if_takes<PlanChunk>(request->state) != nullptr && !chunk(step, *request)) {
            return;
        }
    }
}

void Planner::start_prompts(StepBuilder& step) {
    if (book_->waiting().empty() || pages_are_coming()) {
        return;
    }
    StepShape decodes = floor_->on() ? decodes_to_come() : StepShape{};
    while (budget_ > 0) {
        Request* request = gate_->admit(decodes);
        if (request == nullptr) {
            return;
        }
        decodes.add_decode(request->sequence.size());
        if (lease_if_takes<PlanChunk>(request->state) != nullptr && !chunk(step, *request)) {
            return;
        }
    }
}

// All who run, those whose prompts are not through among them.
StepShape Planner::decodes_to_come() const {
    StepShape shape;
    for (const Request* request : book_->running()) {
        shape.add_decode(request->sequence.size());
    }
    return shape;
}

bool Planner::chunk(StepBuilder& step, Request& request) {
    StepShape& shape = ledger_->shape();
    const Position start = lease_of(request.state)->planned;
    const Position rest = request.sequence.size() - start;
    const Position count = floor_->chunk(shape, start, std::min(rest, budget_));
    if (count == 0) {
        return false;
    }
    const auto tokens =
        request.sequence.tokens().subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(count));
    const bool last = count == rest;
    if (last) {
        must_apply(request.state, PlanLastChunk{step, tokens});
    } else {
        must_apply(request.state, PlanChunk{step, tokens});
    }
    ledger_->rows().push_back({&request, count, last, true});
    shape.add_chunk(start, count);
    budget_ -= count;
    return true;
}

// A page for the next token of a decode. When none is left somebody gives way: at once if nothing of it is in
// flight, else as soon as that has settled, and until then the decode waits.
std::optional<WritablePage> Planner::page_for(const Request& request) {
    while (true) {
        if (auto page = cache_->allocate()) {
            return page;
        }
        if (pages_are_coming() || transfers_->storing()) {
            return std::nullopt;
        }
        Request* gives_way = victim();
        if (gives_way == nullptr) {
            return std::nullopt;
        }
        gate_->on_preemption();
        if (apply(gives_way->state, Preempt{})) {
            must_apply(gives_way->state, Yield{});
            return std::nullopt;
        }
        gate_->await_again(*gives_way);
        if (gives_way == &request) {
            return std::nullopt;
        }
    }
}

// Nobody when the only one left can wait for pages of which a transfer has the use.
Request* Planner::victim() {
    candidates_.clear();
    givers_.clear();
    for (Request* request : book_->running()) {
        if (can_give_way(request->state)) {
            candidates_.push_back({request->priority, lease_of(request->state)->planned});
            givers_.push_back(request);
        }
    }
    if (const auto chosen = choose_victim(candidates_)) {
        return givers_[*chosen];
    }
    // Alone, a request can want for a page when it also holds equal pages that others have computed: it
    // starts over with what the index has of it, and without those.
    invariant(!givers_.empty(), "whoever wants a page can give way");
    return transfers_->any() ? nullptr : givers_.front();
}

bool Planner::pages_are_coming() const {
    return std::ranges::any_of(book_->running(), is_leaving, &Request::state);
}

}  // namespace ts::scheduler
