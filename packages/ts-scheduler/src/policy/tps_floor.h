#pragma once

#include "policy/step_cost.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// Keeps every decoding user above a floor of tokens per second: a step with decodes in it may take 1 /
// min_tps seconds, less twice the error of recent predictions, and prompts get what the decodes leave of
// that. Off when min_tps is 0.
class TpsFloor {
 public:
    explicit TpsFloor(double min_tps) : limit_(min_tps > 0 ? 1 / min_tps : 0) {}

    void observe(const StepShape& shape, double seconds) { cost_.observe(shape, seconds); }
    [[nodiscard]] const StepCost& cost() const { return cost_; }
    [[nodiscard]] bool on() const { return limit_ > 0 && cost_.observations() >= kLearn; }

    // The largest chunk of a prompt that has been computed up to `start`, beside what the step has already;
    // at most `most`. A step without decodes has no floor to keep.
    [[nodiscard]] Position chunk(const StepShape& step, Position start, Position most) const;

    // Whether a step of decodes alone would keep the floor with one more of them, `tokens` long.
    [[nodiscard]] bool admits(const StepShape& decodes, Position tokens) const;

 private:
    static constexpr std::int64_t kLearn = 16;  // steps seen before the floor is kept
    [[nodiscard]] double seconds() const;

    double limit_;
    StepCost cost_;
};

}  // namespace ts::scheduler
