#pragma once

#include <array>
#include <cstdint>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

// What a step computes.
struct StepShape {
    std::int64_t prefill_tokens = 0;
    std::int64_t decode_rows = 0;
    std::int64_t kv_tokens = 0;  // read, by all rows together
};

// What a step costs, fitted online: seconds = fixed + per prefill token + per decode row + per KV token read.
//
// Least squares on exponentially forgotten normal equations, all four terms kept at zero or above by
// coordinate descent from the last solution. Features are scaled to a common size, and a weak pull towards
// the last solution settles what the recent steps leave open.
class StepCost {
 public:
    static constexpr int kTerms = 4;

    void observe(const StepShape& shape, double seconds);
    [[nodiscard]] double predict(const StepShape& shape) const;

    [[nodiscard]] double fixed() const { return terms_[0] / kScale[0]; }
    [[nodiscard]] double per_prefill_token() const { return terms_[1] / kScale[1]; }
    [[nodiscard]] double per_decode_row() const { return terms_[2] / kScale[2]; }
    [[nodiscard]] double per_kv_token() const { return terms_[3] / kScale[3]; }
    [[nodiscard]] std::int64_t observations() const { return observations_; }
    // How far predictions have been off lately, in seconds.
    [[nodiscard]] double error() const { return error_; }

 private:
    using Vector = std::array<double, kTerms>;
    static constexpr Vector kScale{1.0, 1e3, 1e2, 1e6};  // a feature of this size counts as one

    [[nodiscard]] static Vector features(const StepShape& shape);
    void solve();

    std::array<Vector, kTerms> gram_{};
    Vector moment_{};
    Vector terms_{};
    double error_ = 0;
    std::int64_t observations_ = 0;
};

}  // namespace ts::scheduler
