#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <vector>

#include "group_check.h"
#include "scenario.h"

namespace explore {

// A scheduler, and what the outside knows of it.
class World {
 public:
    explicit World(const Scenario& scenario)
        : scenario_(&scenario), scheduler_(scenario.config), groups_(scenario.config) {}

    // Acts, and checks what must always hold.
    void act(Action action) {
        repeat(action);
        check();
    }

    // Acts as it has acted before, in a state that has been checked.
    void repeat(Action action, bool again = false) {
        repeating_ = again;
        history_ += static_cast<char>('a' + static_cast<int>(action.kind));
        switch (action.kind) {
            case Kind::submit:
                require(!scheduler_.submit(scenario_->requests[submitted_++]), "a good request is taken");
                break;
            case Kind::plan:
                plan();
                break;
            case Kind::settle:
                settle(action, kStop);
                break;
            case Kind::fail:
                settle(action, kUnusable);
                break;
            case Kind::abort:
                require(scheduler_.abort(action.which), "a live request can be aborted");
                ended_.insert(action.which);
                break;
            case Kind::arrive:
                end_transfer(action.which, true);
                break;
            case Kind::lose:
                end_transfer(action.which, false);
                break;
        }
        for (const Transfer& transfer : scheduler_.transfers()) {
            transfers_.push_back(transfer);
        }
    }

    [[nodiscard]] std::vector<Action> actions() const {
        std::vector<Action> result;
        if (submitted_ < scenario_->requests.size()) {
            result.push_back({Kind::submit});
        }
        if (std::ssize(in_flight_) < scenario_->config.depth) {
            result.push_back({Kind::plan});
        }
        if (!in_flight_.empty()) {
            add_results(in_flight_.front().most(), result);
        }
        for (std::int32_t i = 0; i < std::ssize(transfers_); ++i) {
            result.push_back({Kind::arrive, i});
            if (scenario_->failures) {
                result.push_back({Kind::lose, i});
            }
        }
        for (std::size_t i = 0; i < submitted_; ++i) {
            const RequestId id = scenario_->requests[i].id;
            if (!ended_.contains(id)) {
                result.push_back({Kind::abort, static_cast<std::int32_t>(id)});
            }
        }
        return result;
    }

    // Submits the rest and runs on: every request must end, and every page come back.
    void finish() {
        while (submitted_ < scenario_->requests.size()) {
            act({Kind::submit});
        }
        for (int i = 0; i < 1000 && !scheduler_.idle(); ++i) {
            const auto before = in_flight_.size();
            if (std::ssize(in_flight_) < scenario_->config.depth) {
                act({Kind::plan});
            }
            if (in_flight_.size() == before || std::ssize(in_flight_) == scenario_->config.depth) {
                require(!in_flight_.empty() || !transfers_.empty(),
                        "stuck: there is work, nothing in flight, and no plan");
                if (in_flight_.empty()) {
                    act({Kind::arrive, 0});
                    continue;
                }
                const auto most = in_flight_.front().most();
                act({Kind::settle, -1, 0, static_cast<std::int32_t>(history_.size()) % ways(most)});
            }
        }
        require(scheduler_.idle(), "every request ends");
        while (!transfers_.empty()) {
            act({Kind::arrive, 0});
        }
        require(ended_.size() == scenario_->requests.size(), "every request ends exactly once");
        const Snapshot end = scheduler_.snapshot();
        require(end.free.size() + end.idle.size() == end.references.size(), "every page comes back");
        require(scheduler_.stats().pages_used == 0, "no page is used at the end");
        const auto held = std::ranges::count_if(end.host_references, [](int count) { return count > 0; });
        require(held == std::ssize(end.host_order), "every host page comes back");
        GroupCheck::require_all_back(end);
    }

    // Equal for states that differ in the names of pages alone.
    [[nodiscard]] std::string key() const {
        const Snapshot snapshot = scheduler_.snapshot();
        std::map<PageId, int> names;
        std::string key;
        std::map<PageId, std::uint64_t> content;
        for (std::size_t i = 0; i < snapshot.cached.size(); ++i) {
            content[snapshot.cached[i]] = snapshot.cached_digests[i];
        }
        const auto number = [&](std::int64_t value) { (key += std::to_string(value)) += ' '; };
        const auto page = [&](PageId id) {
            number(names.emplace(id, static_cast<int>(names.size())).first->second);
            number(static_cast<std::int64_t>(content[id]));
        };
        for (const RequestSnapshot& request : snapshot.requests) {
            number(request.id);
            (key += request.state) += ' ';
            number(request.planned);
            number(request.settled);
            number(request.tokens);
            number(request.retention);
            std::ranges::for_each(request.pages, page);
            key += '|';
            std::ranges::for_each(request.aliases, page);
            key += '|';
            std::ranges::for_each(request.arriving, page);
            std::ranges::for_each(request.reserved, page);
            number(std::ssize(request.loading));
        }
        for (const Transfer& transfer : transfers_) {
            number(static_cast<std::int64_t>(transfer.kind));
            number(transfer.request);
            for (const PagePair& pair : transfer.pages) {
                page(pair.device);
            }
        }
        add_copies(snapshot, number);
        key += '/';
        std::ranges::for_each(snapshot.idle, page);
        for (std::size_t i = 0; i < snapshot.idle.size(); ++i) {
            number(snapshot.idle_retention[i]);
            number(snapshot.idle_time_left[i]);
            number(snapshot.idle_recent_for[i]);
        }
        std::ranges::for_each(snapshot.line, number);
        for (const StepInFlight& step : in_flight_) {
            key += '#';
            for (const auto& use : step.uses) {
                number(use.request);
                number(static_cast<std::int64_t>(use.table.size()));
                number(use.start);
                number(use.count);
            }
        }
        number(snapshot.admission_held);
        number(snapshot.admission_has_no_room);
        number(snapshot.first_blocked_for);
        number(static_cast<std::int64_t>(submitted_));
        for (const RequestId id : ended_) {
            number(id);
        }
        GroupCheck::append_key(snapshot, group_uses(), key);
        return key;
    }

    // Copies have no names of their own: a digest says which block it is.
    template <class Number>
    static void add_copies(const Snapshot& snapshot, Number&& number) {
        std::map<PageId, CopySnapshot> by_host;
        for (const CopySnapshot& copy : snapshot.copies) {
            by_host[copy.host] = copy;
        }
        for (std::size_t i = 0; i < snapshot.host_order.size(); ++i) {
            const CopySnapshot& copy = by_host.at(snapshot.host_order[i]);
            number(static_cast<std::int64_t>(copy.digest));
            number(copy.device >= 0);
            number(snapshot.host_time_left[i]);
            by_host.erase(copy.host);
        }
        std::set<std::pair<std::uint64_t, bool>> in_use;
        for (const auto& [host, copy] : by_host) {
            in_use.insert({copy.digest, copy.device >= 0});
        }
        for (const auto& [digest, on_device] : in_use) {
            number(static_cast<std::int64_t>(digest));
            number(on_device);
        }
    }

    void add_states(std::set<std::string_view>& states) const {
        for (const RequestSnapshot& request : scheduler_.snapshot().requests) {
            states.insert(request.state);
        }
    }
    [[nodiscard]] std::int64_t preemptions() const { return scheduler_.stats().preemptions; }
    [[nodiscard]] const std::string& history() const { return history_; }

 private:
    // In how many ways rows can accept tokens, these at most.
    [[nodiscard]] static std::int32_t ways(const std::vector<Position>& most) {
        std::int32_t result = 1;
        for (const Position count : most) {
            result *= count;
        }
        return result;
    }

    [[nodiscard]] static std::vector<Position> accepted(std::vector<Position> most, std::int32_t way) {
        for (Position& count : most) {
            const std::int32_t radix = count;
            count = 1 + way % radix;
            way /= radix;
        }
        return most;
    }

    // Every way to accept drafts, with a stop nowhere or anywhere; and an unusable token in place of any
    // row's.
    void add_results(const std::vector<Position>& most, std::vector<Action>& actions) const {
        const auto rows = static_cast<std::int32_t>(most.size());
        for (std::int32_t way = 0; way < ways(most); ++way) {
            actions.push_back({Kind::settle, -1, 0, way});
            const auto counts = accepted(most, way);
            for (std::int32_t row = 0; row < rows; ++row) {
                const Position count = counts[static_cast<std::size_t>(row)];
                for (std::int32_t after = 0; after < count; ++after) {
                    actions.push_back({Kind::settle, row, after, way});
                }
                if (scenario_->failures && count == 1) {
                    actions.push_back({Kind::fail, row, 0, way});
                }
            }
        }
    }

    void plan() {
        const StepPlan* plan = scheduler_.plan();
        if (plan == nullptr) {
            return;
        }
        const Snapshot snapshot = scheduler_.snapshot();
        std::map<SlotId, const RequestSnapshot*> by_slot;
        for (const RequestSnapshot& request : snapshot.requests) {
            if (request.slot >= 0) {
                by_slot[request.slot] = &request;
            }
        }
        StepInFlight step{plan->step, {}};
        for (const Row& row : plan->rows) {
            const RequestSnapshot& request = *by_slot.at(row.slot);
            const int size = scenario_->config.page_size;
            const auto blocks = static_cast<std::size_t>((row.start + row.count + size - 1) / size);
            std::vector<PageId> table(request.pages.begin(),
                                      request.pages.begin() + static_cast<std::ptrdiff_t>(blocks));
            const Position drafts = (row.flags & kRowTokenOnDevice) != 0 ? row.count - 1 : 0;
            step.uses.push_back({request.id, std::move(table), row.start - drafts_in_flight(request.id),
                                 row.count, drafts, (row.flags & kRowSample) != 0});
        }
        check_reuse(step);
        std::vector<Position> starts;
        std::ranges::transform(step.uses, std::back_inserter(starts), &StepInFlight::Use::start);
        group_uses_.push_back(groups_.take(*plan, starts));
        for (const std::vector<GroupUse>& other : group_uses_) {
            GroupCheck::require_no_reuse(group_uses_.back(), other);
        }
        in_flight_.push_back(std::move(step));
    }

    [[nodiscard]] Position drafts_in_flight(RequestId id) const {
        Position drafts = 0;
        for (const StepInFlight& step : in_flight_) {
            for (const auto& use : step.uses) {
                drafts += use.request == id ? use.drafts : 0;
            }
        }
        return drafts;
    }

    [[nodiscard]] std::size_t first_written(const StepInFlight::Use& use) const {
        return static_cast<std::size_t>(use.start / scenario_->config.page_size);
    }

    // A page that a step writes is in no other request's hand of any step in flight.
    void check_reuse(const StepInFlight& step) const {
        for (const StepInFlight& other : in_flight_) {
            for (const auto& use : step.uses) {
                for (const auto& theirs : other.uses) {
                    for (std::size_t i = first_written(use); i < use.table.size(); ++i) {
                        const bool used = std::ranges::find(theirs.table, use.table[i]) != theirs.table.end();
                        require(use.request == theirs.request || !used, "a page in flight is not reused");
                    }
                }
            }
        }
    }

    void end_transfer(std::int32_t which, bool arrived) {
        const Transfer transfer = transfers_.at(static_cast<std::size_t>(which));
        transfers_.erase(transfers_.begin() + which);
        require(!scheduler_.end_transfer(transfer.id, arrived), "the end of a transfer is taken");
        if (!repeating_) {
            const auto state = key();
            require(scheduler_.end_transfer(transfer.id, arrived).has_value(), "it is taken once");
            require(scheduler_.end_transfer(transfer.id + 100, arrived).has_value(),
                    "the end of what has not begun is refused");
            require(key() == state, "a refused end changes nothing");
        }
    }

    void settle(Action action, Token special) {
        const StepInFlight step = in_flight_.front();
        in_flight_.pop_front();
        if (!repeating_) {
            require_typed_errors(step);
        }
        const auto counts = accepted(step.most(), action.accepted);
        std::vector<std::vector<Token>> by_row;
        for (const Position count : counts) {
            by_row.emplace_back(static_cast<std::size_t>(count), kGoOn);
        }
        if (action.which >= 0) {
            by_row.at(static_cast<std::size_t>(action.which)).at(static_cast<std::size_t>(action.after)) =
                special;
        }
        group_uses_.pop_front();
        run(step, counts);
        std::vector<Token> tokens;
        for (const auto& row : by_row) {
            tokens.insert(tokens.end(), row.begin(), row.end());
        }
        const bool plain = scenario_->config.draft_tokens == 0;
        const auto result =
            scheduler_.settle(step.step, tokens, {}, plain ? std::vector<Position>{} : counts);
        require(std::holds_alternative<std::span<const Output>>(result), "a fitting result is taken");
        take(std::get<std::span<const Output>>(result), step, by_row);
    }

    // What a worker has done when the step's result comes: its rejected drafts stand in the cache, and a
    // later row of the request starts where this one's accepted tokens end.
    void run(const StepInFlight& step, const std::vector<Position>& counts) {
        const Position size = scenario_->config.page_size;
        auto count = counts.begin();
        for (const auto& use : step.uses) {
            const Position unused = use.samples ? 1 + use.drafts - *count++ : 0;
            for (Position i = 0; i < use.count; ++i) {
                const Position position = use.start + i;
                const std::pair place{use.table[static_cast<std::size_t>(position / size)], position % size};
                if (i < use.count - unused) {
                    stale_.erase(place);
                } else {
                    stale_.insert(place);
                }
            }
            for (StepInFlight& later : in_flight_) {
                for (auto& other : later.uses) {
                    other.start += other.request == use.request ? use.drafts - unused : 0;
                }
            }
            for (std::vector<GroupUse>& later : group_uses_) {
                for (GroupUse& other : later) {
                    if (other.request == use.request) {
                        groups_.start_later(other, use.drafts - unused);
                    }
                }
            }
        }
    }

    // Each request gets its row's tokens up to its end, and nothing after it.
    void take(std::span<const Output> outputs, const StepInFlight& step,
              const std::vector<std::vector<Token>>& by_row) {
        auto row = by_row.begin();
        for (const auto& use : step.uses) {
            if (!use.samples) {
                continue;
            }
            for (const Token token : *row++) {
                if (ended_.contains(use.request)) {
                    break;
                }
                require(!outputs.empty() && outputs.front().request == use.request &&
                            outputs.front().token == token,
                        "a request gets the tokens of its row");
                const bool last =
                    ++given_[use.request] == asked(use.request).max_tokens || asked(use.request).send;
                require(outputs.front().finish.has_value() == (token != kGoOn || last),
                        "a request ends with its last token");
                if (outputs.front().finish) {
                    ended_.insert(use.request);
                }
                outputs = outputs.subspan(1);
            }
        }
        require(outputs.empty(), "nothing comes after the end");
    }

    [[nodiscard]] const Submission& asked(RequestId id) const {
        return *std::ranges::find(scenario_->requests, id, &Submission::id);
    }

    void require_typed_errors(const StepInFlight& step) {
        const auto most = step.most();
        const auto state = key();
        const auto refused = [&](StepId id, std::size_t tokens, const std::vector<Position>& counts) {
            const auto result = scheduler_.settle(id, std::vector<Token>(tokens, kGoOn), {}, counts);
            require(std::holds_alternative<SettleError>(result), "a wrong result is refused");
        };
        for (const StepId wrong : {step.step - 1, step.step, step.step + 1, step.step + 2}) {
            refused(wrong, most.size() + 1, {});
        }
        refused(step.step, most.size() + 1, std::vector<Position>(most.size() + 1, 1));
        for (std::size_t row = 0; row < most.size(); ++row) {
            for (const Position wrong : {0, 1 + most[row]}) {
                std::vector<Position> counts(most.size(), 1);
                counts[row] = wrong;
                refused(step.step, most.size() - 1 + static_cast<std::size_t>(wrong), counts);
                refused(step.step, most.size(), counts);
            }
        }
        require(key() == state, "a refused result changes nothing");
    }

    void check() const {
        const Snapshot snapshot = scheduler_.snapshot();
        std::vector<int> holders(snapshot.references.size(), 0);
        std::vector<int> owners(holders);
        const auto at = [](auto& counts, PageId page) -> int& {
            return counts[static_cast<std::size_t>(page)];
        };
        for (const RequestSnapshot& request : snapshot.requests) {
            for (const PageId page : request.pages) {
                ++at(holders, page);
                ++at(owners, page);
            }
            for (const PageId page : request.aliases) {
                ++at(holders, page);
            }
            for (const auto* pages : {&request.arriving, &request.reserved}) {
                for (const PageId page : *pages) {
                    ++at(holders, page);
                    require(snapshot.references.at(static_cast<std::size_t>(page)) == 1,
                            "a page that is being filled is nobody else's");
                }
            }
        }
        for (const Transfer& transfer : transfers_) {
            for (const PagePair& pair : transfer.pages) {
                at(holders, pair.device) += transfer.kind == TransferKind::store ? 1 : 0;
            }
        }
        for (const PageId page : snapshot.cached) {
            ++at(holders, page);
        }
        require(holders == snapshot.references, "each page counts its holders");
        for (const PageId page : snapshot.free) {
            require(at(holders, page) == 0, "a free page is nobody's");
        }
        const auto unheld = std::ranges::count(holders, 0);
        require(unheld == std::ssize(snapshot.free), "a page that nobody holds is free");
        check_in_flight(snapshot, owners);
        check_host(snapshot);
        std::ranges::for_each(transfers_,
                              [&](const Transfer& transfer) { check_transfer(transfer, snapshot); });
        check_positions(snapshot);
        GroupCheck::check(snapshot, group_uses());
    }

    void check_host(const Snapshot& snapshot) const {
        std::vector<int> holders(snapshot.host_references.size(), 0);
        const auto hold = [&](PageId page) { ++holders[static_cast<std::size_t>(page)]; };
        for (const CopySnapshot& copy : snapshot.copies) {
            hold(copy.host);
            const auto digest = [&](PageId page) {
                const auto place = std::ranges::find(snapshot.cached, page) - snapshot.cached.begin();
                return snapshot.cached_digests.at(static_cast<std::size_t>(place));
            };
            require(copy.device < 0 || digest(copy.device) == copy.digest, "a copy is of its block");
        }
        for (const RequestSnapshot& request : snapshot.requests) {
            std::ranges::for_each(request.loading, hold);
        }
        for (const Transfer& transfer : transfers_) {
            for (const PagePair& pair : transfer.pages) {
                if (transfer.kind == TransferKind::store) {
                    hold(pair.host);
                }
            }
        }
        require(holders == snapshot.host_references, "each host page counts its holders");
    }

    static void check_load(const Transfer& transfer, const Snapshot& snapshot) {
        const auto request = std::ranges::find(snapshot.requests, transfer.request, &RequestSnapshot::id);
        require(request != snapshot.requests.end(), "a request lives until its transfer has ended");
        require(std::ranges::equal(request->loading, transfer.pages, {}, {}, &PagePair::host),
                "the host pages of a load are held");
        require(std::ranges::equal(request->arriving, transfer.pages, {}, {}, &PagePair::device),
                "the device pages of a load are held");
    }

    // Neither side of a transfer is reused, and no step writes what it reads.
    void check_transfer(const Transfer& transfer, const Snapshot& snapshot) const {
        if (transfer.kind == TransferKind::load) {
            check_load(transfer, snapshot);
        }
        const bool reads = transfer.kind == TransferKind::store || transfer.kind == TransferKind::send;
        for (const PagePair& pair : transfer.pages) {
            require(snapshot.references.at(static_cast<std::size_t>(pair.device)) > 0,
                    "a page under transfer is held");
            require(pair.host < 0 || snapshot.host_references.at(static_cast<std::size_t>(pair.host)) > 0,
                    "a host page under transfer is held");
            const bool listed = std::ranges::find(snapshot.cached, pair.device) != snapshot.cached.end();
            require(reads || !listed, "what has not arrived is not published");
            for (const StepInFlight& step : in_flight_) {
                for (const auto& use : step.uses) {
                    const auto from = reads ? first_written(use) : 0;
                    const auto pages = std::span(use.table).subspan(from);
                    require(std::ranges::find(pages, pair.device) == pages.end(),
                            "a step does not touch a page under transfer");
                }
            }
        }
    }

    // What is published is settled and holds no rejected draft; what is planned is settled or in flight.
    void check_positions(const Snapshot& snapshot) const {
        const Position size = scenario_->config.page_size;
        for (const PageId page : snapshot.cached) {
            const auto place = stale_.lower_bound({page, 0});
            require(place == stale_.end() || place->first != page, "no rejected draft is published");
        }
        for (const RequestSnapshot& request : snapshot.requests) {
            if (request.slot < 0 || request.state.starts_with("Draining")) {
                continue;
            }
            const Submission& terms = asked(request.id);
            Position under_way = 0;
            for (const StepInFlight& step : in_flight_) {
                for (const auto& use : step.uses) {
                    under_way += use.request == request.id ? use.count : 0;
                }
            }
            require(request.planned == request.settled + under_way,
                    "what is planned is settled or in flight");
            require(request.planned < std::ssize(terms.prompt) + terms.max_tokens,
                    "no row leaves the length");
            require(request.state != "Decoding" || request.settled == request.tokens - 1,
                    "at rest all but the last token is computed");
            for (std::size_t i = static_cast<std::size_t>(request.settled / size); i < request.pages.size();
                 ++i) {
                require(std::ranges::find(snapshot.cached, request.pages[i]) == snapshot.cached.end(),
                        "what is published is settled");
            }
        }
    }

    // Of all steps in flight.
    [[nodiscard]] std::vector<GroupUse> group_uses() const {
        std::vector<GroupUse> result;
        for (const std::vector<GroupUse>& step : group_uses_) {
            result.insert(result.end(), step.begin(), step.end());
        }
        return result;
    }

    void check_in_flight(const Snapshot& snapshot, const std::vector<int>& owners) const {
        for (const StepInFlight& step : in_flight_) {
            for (const auto& use : step.uses) {
                const auto holder = std::ranges::find(snapshot.requests, use.request, &RequestSnapshot::id);
                require(holder != snapshot.requests.end(), "a request lives until its steps have settled");
                require(holder->pages.size() >= use.table.size() &&
                            std::ranges::equal(use.table, std::span(holder->pages).first(use.table.size())),
                        "pages in flight stay with their request");
                for (std::size_t i = first_written(use); i < use.table.size(); ++i) {
                    const PageId page = use.table[i];
                    require(owners[static_cast<std::size_t>(page)] == 1, "a page has a single writer");
                    require(std::ranges::find(snapshot.cached, page) == snapshot.cached.end(),
                            "a page is published after its result only");
                }
            }
        }
    }

    const Scenario* scenario_;
    Scheduler scheduler_;
    GroupCheck groups_;
    std::deque<StepInFlight> in_flight_;
    std::vector<Transfer> transfers_;
    std::deque<std::vector<GroupUse>> group_uses_;  // of each of them
    std::size_t submitted_ = 0;
    std::set<RequestId> ended_;
    std::map<RequestId, std::int64_t> given_;      // tokens
    std::set<std::pair<PageId, Position>> stale_;  // places in the cache that hold a rejected draft
    std::string history_;
    bool repeating_ = false;
};

}  // namespace explore
