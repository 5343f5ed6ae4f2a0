#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "cache/page.h"
#include "policy/step_cost.h"
#include "ts/scheduler/config.h"
#include "ts/scheduler/event.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

struct Request;

// One request's row in a step in flight.
struct RowInFlight {
    Request* request;
    Position count;
    bool samples;
    bool prefill;
    Position drafts = 0;  // of the positions, those that may come back unused
};

// The steps in flight, oldest first. Requests in their rows stay alive until the step settles: their states
// have no other way out.
class StepLedger {
 public:
    explicit StepLedger(int depth, Token vocab) : depth_(depth), vocab_(vocab) {}

    [[nodiscard]] bool full() const { return in_flight_ == depth_; }
    [[nodiscard]] int in_flight() const { return in_flight_; }

    // The rows of the step being planned; launch() puts it in flight.
    [[nodiscard]] std::vector<RowInFlight>& rows() { return at(in_flight_).rows; }
    // What they compute.
    [[nodiscard]] StepShape& shape() { return at(in_flight_).shape; }
    void begin() {
        rows().clear();
        shape() = {};
    }
    [[nodiscard]] StepId next_step() const { return next_; }
    void launch();

    // What is wrong with a result, or nothing. `accepted` may be empty: one token for each sampling row.
    [[nodiscard]] std::optional<SettleError> problem_with(StepId step, std::span<const Token> tokens,
                                                          std::span<const Position> accepted) const;
    // What the oldest step in flight computes.
    [[nodiscard]] const StepShape& oldest_shape() const { return at(0).shape; }

    // How long the steps in flight are expected to take.
    [[nodiscard]] double seconds_under_way(const StepCost& cost) const {
        double seconds = 0;
        for (int i = 0; i < in_flight_; ++i) {
            seconds += cost.predict(at(i).shape);
        }
        return seconds;
    }

    // Ends the oldest step: calls row(RowInFlight, its tokens, SettleProof) for each of its rows.
    template <class OnRow>
    void settle(std::span<const Token> tokens, std::span<const Position> accepted, OnRow&& on_row) {
        const SettleProof proof;
        auto count = accepted.begin();
        for (const RowInFlight& row : at(0).rows) {
            std::size_t own = row.samples ? 1 : 0;
            if (row.samples && !accepted.empty()) {
                own = static_cast<std::size_t>(*count++);
            }
            on_row(row, tokens.first(own), proof);
            tokens = tokens.subspan(own);
        }
        oldest_ = (oldest_ + 1) % steps_.size();
        --in_flight_;
    }

 private:
    struct Step {
        StepId id = 0;
        std::size_t samples = 0;
        StepShape shape;
        std::vector<RowInFlight> rows;
    };

    [[nodiscard]] static std::optional<SettleError> problem_with(const Step& step,
                                                                 std::span<const Token> tokens,
                                                                 std::span<const Position> accepted);

    [[nodiscard]] Step& at(int i) { return steps_[(oldest_ + static_cast<std::size_t>(i)) % steps_.size()]; }
    [[nodiscard]] const Step& at(int i) const {
        return steps_[(oldest_ + static_cast<std::size_t>(i)) % steps_.size()];
    }

    std::array<Step, kMaxDepth + 1> steps_;  // in flight, and one being planned
    std::size_t oldest_ = 0;
    int in_flight_ = 0;
    int depth_;
    Token vocab_;
    StepId next_ = 1;
};

}  // namespace ts::scheduler
