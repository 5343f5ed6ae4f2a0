#pragma once

#include <limits>

#include "policy/step_cost.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// When an answer's next token is due, on the clock of the device's work; 0 while no token has come.
using Due = double;

// Keeps every decoding user above a floor of tokens per second. Off when min_tps is 0.
//
// Each token is due 1 / min_tps after the one before was; an answer that is ahead has credit, and
// one that is late has debt, kCredit at most. A step takes as long as the earliest due of its decodes allows,
// less twice the part by which recent predictions were off and a reserve of a quarter of a token's time,
// which one that takes longer than predicted uses up first; prompts get what the decodes leave of that.
// Prompts wait until they get a good part of what full credit would give them: a step with a prompt in it
// costs much before its first token.
class TpsFloor {
 public:
    explicit TpsFloor(double min_tps) : limit_(min_tps > 0 ? 1 / min_tps : 0) {}

    [[nodiscard]] bool on() const { return limit_ > 0; }

    void observe(const StepShape& shape, double seconds);
    [[nodiscard]] const StepCost& cost() const { return cost_; }

    // After `observe`: when the next token is due, the first one or `tokens` later ones having come.
    [[nodiscard]] Due first_token() const { return clock_ + limit_; }
    [[nodiscard]] Due next_token(Due due, Position tokens = 1) const;

    // A step is being planned, behind steps that are expected to take `ahead` seconds.
    void begin(double ahead);
    // It has this answer's token, behind `steps` under way that have one too, or more with drafts; a due of 0
    // is that of an answer whose first token is under way.
    void expect(Due due, int steps);

    // The largest chunk of a prompt that has been computed up to `start`, beside what the step has already;
    // at most `most`. A step without decodes has no floor to keep.
    [[nodiscard]] Position chunk(const StepShape& step, Position start, Position most) const;

    // Whether a step of decodes alone would keep the floor with one more of them, `tokens` long. Prompts that
    // are not through will be decodes, too.
    [[nodiscard]] bool admits(const StepShape& decodes, Position tokens) const;

 private:
    static constexpr std::int64_t kLearn = 16;  // steps seen before the floor is kept
    static constexpr double kCredit = 0.25;     // seconds
    static constexpr double kReserve = 0.25;    // of a token's time, left when a chunk has taken the rest
    static constexpr double kPatience = 1.0;    // seconds after which a prompt takes what little there is,
    static constexpr Position kLeast = 64;      // and these tokens at least, so that it gets on

    [[nodiscard]] bool holds(const StepShape& decodes) const;

    double limit_;
    StepCost cost_;
    double clock_ = 0;
    double prefilled_ = 0;  // when a step with a prompt in it ended last
    double starts_ = 0;
    Due earliest_ = std::numeric_limits<double>::infinity();
};

}  // namespace ts::scheduler
