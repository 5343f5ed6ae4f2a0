#include "ts/scheduler/scheduler.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "group_snapshot.h"
#include "groups.h"
#include "policy/planner.h"
#include "request/ledger.h"
#include "submission.h"
#include "transfer/ledger.h"
#include "wire/messages.h"

namespace ts::scheduler {

class Scheduler::Impl {
 public:
    explicit Impl(const Config& config)
        : config_(config),
          cache_(config),
          slots_(usable_slots(config)),
          ledger_(config.depth, config.vocab_size),
          turns_(config.priority_tokens),
          floor_(config.min_tps),
          gate_(config, book_, cache_, slots_, transfers_, turns_, floor_, stats_),
          write_back_(config.write_back_pages, cache_, transfers_),
          planner_(config, book_, cache_, ledger_, transfers_, gate_, write_back_, floor_) {
        plan_.tokens.resize(static_cast<std::size_t>(std::min(config.chunk_tokens, 1 << 16)));  // touched now
    }

    std::optional<Rejection> submit(Submission submission) {
        if (auto rejection = check(submission, config_)) {
            return rejection;
        }
        if (book_.find(submission.id) != nullptr) {
            return reject(RejectionCode::duplicate, "request_id " + std::to_string(submission.id) +
                                                        " is in use; take a fresh one for each request");
        }
        if (auto rejection = queue_full(submission)) {
            return rejection;
        }
        add(std::move(submission));
        return std::nullopt;
    }

    bool abort(RequestId id) {
        Request* request = book_.find(id);
        if (request == nullptr || apply(request->state, Abort{})) {
            return false;
        }
        remove_if_finished(*request);
        return true;
    }

    const StepPlan* plan() {
        if (ledger_.full()) {
            return nullptr;
        }
        plan_.rows.clear();
        plan_.tokens.clear();
        plan_.pages.clear();
        plan_.states.clear();
        plan_.admits.clear();
        if (!planner_.fill(plan_)) {
            return nullptr;
        }
        slots_.drain_released(plan_.releases);
        plan_.step = ledger_.next_step();
        ledger_.launch();
        encode_plan(plan_, book_, plan_.message);
        return &plan_;
    }

    std::variant<std::span<const Output>, SettleError> settle(StepId step, std::span<const Token> tokens,
                                                              std::chrono::nanoseconds duration,
                                                              std::span<const Position> accepted) {
        if (auto problem = ledger_.problem_with(step, tokens, accepted)) {
            return *std::move(problem);
        }
        if (duration.count() < 0) {
            return SettleError{SettleCode::invalid_duration, "step " + std::to_string(step) + " took " +
                                                                 std::to_string(duration.count()) +
                                                                 " ns; send the time that it took, or 0"};
        }
        if (duration.count() > 0) {
            floor_.observe(ledger_.oldest_shape(), std::chrono::duration<double>(duration).count());
        }
        outputs_.clear();
        ledger_.settle(tokens, accepted,
                       [this](const RowInFlight& row, std::span<const Token> sampled,
                              const SettleProof& proof) { settle_row(row, sampled, proof); });
        ++stats_.steps;
        return std::span<const Output>(outputs_);
    }

    std::span<const Transfer> transfers() { return transfers_.take_started(); }

    std::optional<TransferError> end_transfer(TransferId id, bool arrived) {
        auto error = transfers_.end(
            id,
            [&](Store store, const TransferProof& proof) {
                (arrived ? stats_.host_stored_pages : stats_.transfers_failed) +=
                    arrived ? store.size() : std::int64_t{1};
                std::move(store).end(proof, arrived, cache_.index());
            },
            [&](Request& request, const TransferProof& proof) { end_transfer(request, proof, arrived); });
        if (!error) {
            gate_.on_transfer();
        }
        return error;
    }

    Stats stats() const {
        Stats stats = stats_;
        stats.preemptions = book_.preemptions();
        stats.requests_running = std::ssize(book_.running());
        stats.requests_waiting = std::ssize(book_.waiting());
        stats.pages_used = cache_.used();
        stats.pages_total = cache_.pool().total();
        stats.pages_cached = cache_.pool().idle();
        stats.tokens_waiting = book_.waiting_tokens();
        stats.prefix_evictions = cache_.pool().evictions();
        stats.host_pages_used = cache_.host().total() - cache_.host().free();
        return stats;
    }

    std::array<double, 6> step_cost() const { return floor_.cost().terms(); }

    bool idle() const { return book_.empty(); }

    Snapshot snapshot() const;

 private:
    std::optional<Rejection> queue_full(const Submission& submission) const {
        const auto full = [](const char* limit, std::int64_t value, const char* what) {
            return reject(RejectionCode::queue_full, std::string(limit) + " " + std::to_string(value) + " " +
                                                         what + "; try again later");
        };
        if (book_.size() - slots_.total() >= config_.max_queued) {
            return full("max_queued", config_.max_queued, "requests wait beyond those that can run");
        }
        const std::int64_t tokens = book_.waiting_tokens() + std::ssize(submission.prompt);
        if (config_.max_queued_tokens > 0 && !book_.waiting().empty() && tokens > config_.max_queued_tokens) {
            return full("max_queued_tokens", config_.max_queued_tokens, "prompt tokens wait already");
        }
        if (config_.max_queued_per_user > 0 &&
            turns_.waiting(submission.user) >= config_.max_queued_per_user) {
            return full("max_queued_per_user", config_.max_queued_per_user,
                        "requests of this user wait already");
        }
        return std::nullopt;
    }

    void add(Submission submission) {
        Terms terms{.user = submission.user,
                    .priority = submission.priority,
                    .session = submission.session,
                    .send = submission.send,
                    .receive = submission.receive,
                    .sampling = std::move(submission.sampling)};
        auto request = std::make_unique<Request>(
            submission.id, book_.arrivals(), Turn{}, std::move(terms),
            Sequence(std::move(submission.prompt), static_cast<Position>(submission.max_tokens),
                     {submission.stop_tokens.begin(), submission.stop_tokens.end()}, config_.page_size,
                     submission.cache_salt));
        gate_.inspect(*request);
        const Position cached = request->match.found() * config_.page_size;
        request->turn = turns_.take(request->user, request->priority, request->sequence.size() - cached);
        book_.add(std::move(request));
        gate_.on_arrival();
    }

    void settle_row(const RowInFlight& row, std::span<const Token> tokens, const SettleProof& proof) {
        Request& request = *row.request;
        const bool wanted = !reason_to_end(request.state);
        const bool unusable = !tokens.empty() && tokens.front() == kUnusable;
        if (unusable && wanted) {  // before it settles, so that none of it gets into the prefix index
            must_apply(request.state, Abort{});
        }
        const Position before = request.sequence.size();
        must_apply(request.state,
                   StepSettled{proof, request.sequence, cache_.reuse() ? &cache_.index() : nullptr, row.count,
                               row.drafts, tokens, cache_.groups()});
        count(row, static_cast<Position>(tokens.size()));
        if (row.prefill) {
            gate_.on_publication();
        }
        if (request.sends && std::holds_alternative<Decoding>(request.state)) {
            send(request);
        }
        if (wanted && !tokens.empty()) {
            report(request,
                   unusable ? tokens : request.sequence.tokens().subspan(static_cast<std::size_t>(before)),
                   unusable ? FinishReason::unusable : reason_to_end(request.state));
        }
        if (std::holds_alternative<Preempted>(request.state)) {
            gate_.await_again(request);
        }
        if (!tokens.empty()) {
            request.due = row.prefill ? floor_.first_token()
                                      : floor_.next_token(request.due, static_cast<Position>(tokens.size()));
        }
        remove_if_finished(request);
    }

    void send(Request& request) {
        const Lease& lease = *lease_of(request.state);
        std::vector<PagePair> pages;
        pages.reserve(static_cast<std::size_t>(lease.blocks.size()));
        for (int block = 0; block < lease.blocks.size(); ++block) {
            pages.push_back({.device = lease.blocks.page(block), .host = -1});
        }
        transfers_.start(TransferKind::send, request, request.id, lease.settled, std::move(pages));
        must_apply(request.state, Send{});
    }

    void end_transfer(Request& request, const TransferProof& proof, bool arrived) {
        const bool loads = std::holds_alternative<LoadingFromHost>(request.state);
        const Position before = lease_of(request.state)->settled;
        const auto sources = std::ssize(arrival_of(request.state) ? arrival_of(request.state)->source_ids()
                                                                  : std::vector<PageId>{});
        must_apply(request.state, TransferEnded{proof, arrived, request.sequence,
                                                cache_.reuse() ? &cache_.index() : nullptr});
        (arrived ? stats_.host_loaded_pages : stats_.transfers_failed) += arrived ? sources : 1;
        if (arrived && loads) {
            count_loaded(request, lease_of(request.state)->settled - before);
        }
        if (std::holds_alternative<Preempted>(request.state)) {
            gate_.await_again(request);
        }
        remove_if_finished(request);
    }

    void count_loaded(Request& request, Position tokens) {
        if (request.admissions > 1) {
            return;  // they were computed or counted before it was preempted
        }
        request.cached_tokens += tokens;
        stats_.host_hit_tokens += tokens;
        stats_.prefix_hit_tokens += tokens;
        stats_.prefix_hits += request.cached_tokens == tokens ? 1 : 0;
    }

    void count(const RowInFlight& row, Position tokens) {
        if (row.prefill) {
            stats_.prefill_tokens += row.count;
        } else {
            stats_.decode_tokens += tokens;
            stats_.draft_tokens += row.drafts;
            stats_.accepted_draft_tokens += tokens - 1;
        }
    }

    // What the request keeps of a step: the last of its tokens may finish it.
    void report(const Request& request, std::span<const Token> tokens, std::optional<FinishReason> finish) {
        for (const Token token : tokens) {
            outputs_.push_back({request.id, token, request.cached_tokens, std::nullopt});
        }
        outputs_.back().finish = finish;
    }

    void remove_if_finished(Request& request) {
        if (std::holds_alternative<Finished>(request.state)) {
            if (request.admissions > 0) {
                turns_.charge(request.user, request.sequence.size() - request.sequence.prompt());
            } else {
                turns_.leave(request.user);
            }
            book_.remove(request);
            gate_.on_departure();
        }
    }

    // Why the client has seen the end of this request, if it has.
    static std::optional<FinishReason> reason_to_end(const State& state) {
        return std::visit(
            []<class S>(const S& current) -> std::optional<FinishReason> {
                if constexpr (std::is_same_v<S, Finished>) {
                    return current.reason;
                } else if constexpr (requires { current.reason(); }) {
                    return current.reason();
                } else {
                    return std::nullopt;
                }
            },
            state);
    }

    // In this order: what hands out handles outlives what holds them.
    Config config_;
    KvCache cache_;
    SlotPool slots_;
    RequestBook book_;
    StepLedger ledger_;
    TransferLedger transfers_;
    Stats stats_;
    Turns turns_;
    TpsFloor floor_;
    AdmissionGate gate_;
    WriteBack write_back_;
    Planner planner_;
    StepPlan plan_;
    std::vector<Output> outputs_;
};

Snapshot Scheduler::Impl::snapshot() const {
    Snapshot result;
    for (const Request* request : book_.all()) {
        RequestSnapshot& entry = result.requests.emplace_back();
        entry.id = request->id;
        entry.state = name_of(request->state);
        entry.tokens = request->sequence.size();
        entry.retention = static_cast<int>(request->retention);
        if (const Arrival* arrival = arrival_of(request->state)) {
            entry.arriving = arrival->page_ids();
            entry.reserved = arrival->rest_ids();
            entry.loading = arrival->source_ids();
        }
        if (const Lease* lease = lease_of(request->state)) {
            entry.slot = lease->slot.id();
            entry.planned = lease->planned;
            entry.settled = lease->settled;
            entry.aliases = lease->blocks.alias_pages();
            for (int block = 0; block < lease->blocks.size(); ++block) {
                entry.pages.push_back(lease->blocks.page(block));
            }
            if (const CacheGroups* groups = cache_.groups()) {
                entry.groups = snapshot_of(lease->groups, *groups);
            }
        }
    }
    result.free = cache_.pool().free_pages();
    result.cached = cache_.index().pages();
    result.cached_digests = cache_.index().digests();
    const PagePool& pool = cache_.pool();
    result.idle = pool.idle_pages().in_order();
    for (const PageId page : result.idle) {
        result.idle_retention.push_back(static_cast<int>(pool.retention(page)));
        result.idle_time_left.push_back(pool.idle_pages().time_left(page));
        result.idle_recent_for.push_back(pool.idle_pages().recent_for(page));
    }
    for (const Request* request : book_.waiting()) {
        result.line.push_back(request->id);
    }
    for (PageId page = 0; page < cache_.pool().total(); ++page) {
        result.references.push_back(cache_.pool().references(page));
    }
    for (PageId page = 0; page < cache_.host().total(); ++page) {
        result.host_references.push_back(cache_.host().references(page));
    }
    for (const auto& copy : cache_.index().copies()) {
        result.copies.push_back({copy.host, copy.digest, copy.device});
    }
    result.host_order = cache_.host().idle_pages().in_order();
    for (const PageId page : result.host_order) {
        result.host_time_left.push_back(cache_.host().idle_pages().time_left(page));
    }
    result.transfers = transfers_.size();
    result.steps_in_flight = ledger_.in_flight();
    result.admission_held = gate_.held();
    result.admission_has_no_room = gate_.has_no_room();
    result.first_blocked_for = gate_.blocked_for();
    if (const CacheGroups* groups = cache_.groups()) {
        result.groups = snapshot_of(*groups, cache_.index());
    }
    return result;
}

Scheduler::Scheduler(const Config& config) {
    if (const auto problem = problem_with(config)) {
        throw std::invalid_argument(*problem);
    }
    impl_ = std::make_unique<Impl>(config);
}
Scheduler::Scheduler(Scheduler&&) noexcept = default;
Scheduler& Scheduler::operator=(Scheduler&&) noexcept = default;
Scheduler::~Scheduler() = default;

std::optional<Rejection> Scheduler::submit(Submission submission) {
    return impl_->submit(std::move(submission));
}
bool Scheduler::abort(RequestId id) { return impl_->abort(id); }
const StepPlan* Scheduler::plan() { return impl_->plan(); }
std::variant<std::span<const Output>, SettleError> Scheduler::settle(StepId step,
                                                                     std::span<const Token> tokens,
                                                                     std::chrono::nanoseconds duration,
                                                                     std::span<const Position> accepted) {
    return impl_->settle(step, tokens, duration, accepted);
}
std::span<const Transfer> Scheduler::transfers() { return impl_->transfers(); }
std::optional<TransferError> Scheduler::end_transfer(TransferId id, bool arrived) {
    return impl_->end_transfer(id, arrived);
}
std::array<double, 6> Scheduler::step_cost() const { return impl_->step_cost(); }
Stats Scheduler::stats() const { return impl_->stats(); }
bool Scheduler::idle() const { return impl_->idle(); }
Snapshot Scheduler::snapshot() const { return impl_->snapshot(); }

}  // namespace ts::scheduler
