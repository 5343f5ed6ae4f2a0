#pragma once

#include <algorithm>
#include <map>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "check.h"
#include "ts/scheduler/scheduler.h"

// What tests use to drive a scheduler: prompts, submissions, and a worker that always answers the same.
namespace ts::scheduler {

inline std::vector<Token> tokens(int count, Token first = 0) {
    std::vector<Token> result(static_cast<std::size_t>(count));
    std::iota(result.begin(), result.end(), first);
    return result;
}

inline Submission asked(RequestId id, std::vector<Token> prompt, std::int64_t max_tokens = 1,
                        std::vector<std::int64_t> stops = {}) {
    Submission result;
    result.id = id;
    result.prompt = std::move(prompt);
    result.max_tokens = max_tokens;
    result.stop_tokens = std::move(stops);
    return result;
}

inline std::vector<Output> settle(Scheduler& scheduler, StepId step, std::vector<Token> sampled,
                                  std::vector<Position> accepted = {}) {
    const auto result = scheduler.settle(step, sampled, {}, accepted);
    const auto* outputs = std::get_if<std::span<const Output>>(&result);
    CHECK(outputs != nullptr);
    return {outputs->begin(), outputs->end()};
}

inline SettleError settle_error(Scheduler& scheduler, StepId step, std::vector<Token> sampled,
                                std::vector<Position> accepted = {}) {
    const auto result = scheduler.settle(step, sampled, {}, accepted);
    const auto* error = std::get_if<SettleError>(&result);
    CHECK(error != nullptr);
    return *error;
}

// A scheduler and a worker that answers 999 to everything.
struct Runner {
    explicit Runner(const Config& config) : scheduler(config) {}
    Scheduler scheduler;
    RequestId next = 1;
    std::map<TransferId, Transfer> under_way{};
    std::map<RequestId, Output> last{};  // of each request
    std::vector<Row> rows{};             // of the last step

    RequestId submit(std::vector<Token> prompt, std::int64_t max_tokens = 1, Submission terms = {}) {
        terms.id = next++;
        terms.prompt = std::move(prompt);
        terms.max_tokens = max_tokens;
        CHECK(!scheduler.submit(terms));
        return terms.id;
    }
    void note_transfers() {
        for (const Transfer& transfer : scheduler.transfers()) {
            under_way[transfer.id] = transfer;
        }
    }
    bool step() {
        const StepPlan* plan = scheduler.plan();
        note_transfers();
        if (plan == nullptr) {
            return false;
        }
        rows = plan->rows;
        const auto samples =
            std::ranges::count_if(rows, [](const Row& row) { return (row.flags & kRowSample) != 0; });
        const std::vector<Token> sampled(static_cast<std::size_t>(samples), 999);
        for (const Output& output : settle(scheduler, plan->step, sampled)) {
            last.insert_or_assign(output.request, output);
        }
        note_transfers();
        return true;
    }
    [[nodiscard]] bool has_finished(RequestId id) const {
        const auto output = last.find(id);
        return output != last.end() && output->second.finish.has_value();
    }
};

}  // namespace ts::scheduler
