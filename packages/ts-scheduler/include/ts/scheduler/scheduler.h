#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "ts/scheduler/config.h"
#include "ts/scheduler/event.h"
#include "ts/scheduler/plan.h"
#include "ts/scheduler/snapshot.h"
#include "ts/scheduler/transfer.h"

namespace ts::scheduler {

// The control plane: who runs next, on which pages. Single-threaded; every call returns at once.
//
//     submit ... plan -> (worker runs) -> settle -> outputs
//
// Up to `Config::depth` planned steps may be unsettled; they settle in the order in which they were planned.
class Scheduler {
 public:
    // Throws std::invalid_argument with the sentence of problem_with(config).
    explicit Scheduler(const Config& config);
    Scheduler(const Scheduler&) = delete;
    Scheduler& operator=(const Scheduler&) = delete;
    Scheduler(Scheduler&&) noexcept;
    Scheduler& operator=(Scheduler&&) noexcept;
    ~Scheduler();

    // Takes a request into the queue, or says why not.
    [[nodiscard]] std::optional<Rejection> submit(Submission submission);

    // Ends a request in whatever state it is; pages under a step in flight return when that step settles.
    // False for an id that is unknown or already ending.
    bool abort(RequestId id);

    // The next step, or nullptr when there is nothing to run or `depth` steps are unsettled.
    // The plan is valid until the next call of plan().
    [[nodiscard]] const StepPlan* plan();

    // Takes the sampled tokens of the oldest unsettled step, for each row with kRowSample, in row order.
    // `duration` is how long the step took on the worker, zero when that is not known: the TPS floor learns
    // from it. `accepted` is how many tokens each of these rows has, at least one: the accepted drafts and
    // the token that follows them; empty for one each. Positions of rejected drafts return to their request.
    // The outputs are valid until the next call of settle().
    [[nodiscard]] std::variant<std::span<const Output>, SettleError> settle(
        StepId step, std::span<const Token> tokens, std::chrono::nanoseconds duration = {},
        std::span<const Position> accepted = {});

    // The transfers to be made, begun by plan() and settle() since the last call. Valid until the next one.
    // Each may start at once: nothing planned before it touches its pages, but for steps that read a store's
    // or a send's.
    [[nodiscard]] std::span<const Transfer> transfers();

    // A transfer has ended; `arrived` when it has done what it should. What failed to arrive is computed; a
    // copy that failed is forgotten.
    [[nodiscard]] std::optional<TransferError> end_transfer(TransferId id, bool arrived);

    // Constant time.
    [[nodiscard]] Stats stats() const;

    // What a step costs, as fitted from the durations, in seconds: fixed, more if there is a prompt in it,
    // per prefill token, per pair of a prefilled token and one that it attends to, per decode row, per KV
    // token that decodes read.
    [[nodiscard]] std::array<double, 6> step_cost() const;

    // No request waits, runs or drains. Copies to the host may be under way.
    [[nodiscard]] bool idle() const;

    // Everything that a checker wants to see. Slow: for tests and for debugging.
    [[nodiscard]] Snapshot snapshot() const;

 private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

// The request state machine as a mermaid diagram, made from the transition table.
[[nodiscard]] std::string transition_diagram();
// The same as a table in Markdown: a line for each state.
[[nodiscard]] std::string transition_table();

}  // namespace ts::scheduler
