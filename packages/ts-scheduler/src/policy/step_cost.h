#pragma once

#include <array>
#include <cstdint>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

// What a step computes.
struct StepShape {
    std::int64_t prefill_tokens = 0;
    std::int64_t prefill_pairs = 0;  // of a prefilled token and a token that it attends to
    std::int64_t decode_rows = 0;
    std::int64_t kv_tokens = 0;  // read by the decodes together

    void add_decode(Position length) {
        ++decode_rows;
        kv_tokens += length;
    }
    void add_chunk(Position start, Position count) {
        prefill_tokens += count;
        prefill_pairs += std::int64_t{count} * start + std::int64_t{count} * count / 2;
    }
};

// What a step costs, fitted online: seconds = fixed + prompts (if there are any: more experts' weights are
// read)
// + per prefill token + per pair + per decode row + per KV token.
//
// Least squares on exponentially forgotten normal equations, all terms kept at zero or above by coordinate
// descent from the last solution. Features are scaled to a common size, and a weak pull towards the last
// solution settles what the recent steps leave open.
class StepCost {
 public:
    static constexpr int kTerms = 6;
    using Vector = std::array<double, kTerms>;

    void observe(const StepShape& shape, double seconds);
    [[nodiscard]] double predict(const StepShape& shape) const;
    // The most tokens of a prompt that has been computed up to `start` that fit into `seconds` beside
    // `shape`.
    [[nodiscard]] double tokens_within(double seconds, const StepShape& shape, Position start) const;

    // In the order above, seconds each.
    [[nodiscard]] Vector terms() const;
    [[nodiscard]] std::int64_t observations() const { return observations_; }
    // How far predictions have been off lately, as a part of what steps took.
    [[nodiscard]] double error() const { return error_; }

 private:
    static constexpr Vector kScale{1.0, 1.0, 1e3, 1e8, 1e2, 1e6};  // a feature of this size counts as one

    [[nodiscard]] static Vector features(const StepShape& shape);
    void solve();

    std::array<Vector, kTerms> gram_{};
    Vector moment_{};
    Vector terms_{};  // of scaled features
    double error_ = 0;
    std::int64_t observations_ = 0;
};

}  // namespace ts::scheduler
