#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <vector>

#include "scenario.h"

namespace explore {

// A scheduler, and what the outside knows of it.
class World {
 public:
    explicit World(const Scenario& scenario) : scenario_(&scenario), scheduler_(scenario.config) {}

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
                settle(action.which, kStop);
                break;
            case Kind::fail:
                settle(action.which, kUnusable);
                break;
            case Kind::abort:
                require(scheduler_.abort(action.which), "a live request can be aborted");
                ended_.insert(action.which);
                break;
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
            const auto samples = static_cast<std::int32_t>(in_flight_.front().samples);
            for (std::int32_t row = -1; row < samples; ++row) {
                result.push_back({Kind::settle, row});
            }
            for (std::int32_t row = 0; scenario_->failures && row < samples; ++row) {
                result.push_back({Kind::fail, row});
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
                require(!in_flight_.empty(), "stuck: there is work, nothing in flight, and no plan");
                act({Kind::settle});
            }
        }
        require(scheduler_.idle(), "every request ends");
        require(ended_.size() == scenario_->requests.size(), "every request ends exactly once");
        const Snapshot end = scheduler_.snapshot();
        require(end.free.size() + end.idle.size() == end.references.size(), "every page comes back");
        require(scheduler_.stats().pages_used == 0, "no page is used at the end");
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
        }
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
                number(static_cast<std::int64_t>(use.first_written));
            }
        }
        number(snapshot.admission_held);
        number(snapshot.admission_has_no_room);
        number(snapshot.first_blocked_for);
        number(static_cast<std::int64_t>(submitted_));
        for (const RequestId id : ended_) {
            number(id);
        }
        return key;
    }

    [[nodiscard]] std::int64_t preemptions() const { return scheduler_.stats().preemptions; }
    [[nodiscard]] const std::string& history() const { return history_; }

 private:
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
        StepInFlight step{plan->step, 0, {}};
        for (const Row& row : plan->rows) {
            const RequestSnapshot& request = *by_slot.at(row.slot);
            const int size = scenario_->config.page_size;
            const auto blocks = static_cast<std::size_t>((row.start + row.count + size - 1) / size);
            std::vector<PageId> table(request.pages.begin(),
                                      request.pages.begin() + static_cast<std::ptrdiff_t>(blocks));
            step.uses.push_back({request.id, std::move(table), static_cast<std::size_t>(row.start / size)});
            step.samples += (row.flags & kRowSample) != 0 ? 1 : 0;
        }
        check_reuse(step);
        in_flight_.push_back(std::move(step));
    }

    // A page that a step writes is in no other request's hand of any step in flight.
    void check_reuse(const StepInFlight& step) const {
        for (const StepInFlight& other : in_flight_) {
            for (const auto& use : step.uses) {
                for (const auto& theirs : other.uses) {
                    for (std::size_t i = use.first_written; i < use.table.size(); ++i) {
                        const bool used = std::ranges::find(theirs.table, use.table[i]) != theirs.table.end();
                        require(use.request == theirs.request || !used, "a page in flight is not reused");
                    }
                }
            }
        }
    }

    void settle(std::int32_t row, Token special) {
        const StepInFlight step = in_flight_.front();
        in_flight_.pop_front();
        if (!repeating_) {
            require_typed_errors(step);
        }
        std::vector<Token> tokens(step.samples, kGoOn);
        if (row >= 0) {
            tokens.at(static_cast<std::size_t>(row)) = special;
        }
        const auto result = scheduler_.settle(step.step, tokens);
        require(std::holds_alternative<std::span<const Output>>(result), "a fitting result is taken");
        for (const Output& output : std::get<std::span<const Output>>(result)) {
            require(!ended_.contains(output.request), "nothing comes after the end");
            if (output.finish) {
                ended_.insert(output.request);
            }
        }
    }

    void require_typed_errors(const StepInFlight& step) {
        std::vector<Token> tokens(step.samples + 1, kGoOn);
        const auto state = key();
        for (const StepId wrong : {step.step - 1, step.step, step.step + 1, step.step + 2}) {
            require(std::holds_alternative<SettleError>(scheduler_.settle(wrong, tokens)),
                    "a wrong result is refused");
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
    }

    void check_in_flight(const Snapshot& snapshot, const std::vector<int>& owners) const {
        for (const StepInFlight& step : in_flight_) {
            for (const auto& use : step.uses) {
                const auto holder = std::ranges::find(snapshot.requests, use.request, &RequestSnapshot::id);
                require(holder != snapshot.requests.end(), "a request lives until its steps have settled");
                require(holder->pages.size() >= use.table.size() &&
                            std::ranges::equal(use.table, std::span(holder->pages).first(use.table.size())),
                        "pages in flight stay with their request");
                for (std::size_t i = use.first_written; i < use.table.size(); ++i) {
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
    std::deque<StepInFlight> in_flight_;
    std::size_t submitted_ = 0;
    std::set<RequestId> ended_;
    std::string history_;
    bool repeating_ = false;
};

}  // namespace explore
