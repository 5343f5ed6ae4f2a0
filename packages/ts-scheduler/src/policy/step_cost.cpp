#include "policy/step_cost.h"

#include <algorithm>
#include <cmath>

namespace ts::scheduler {
namespace {

constexpr double kKeep = 0.998;  // of an observation's weight after each later one: half after 350 steps
constexpr double kPull = 1e-4;   // towards the last solution
constexpr int kSweeps = 8;

}  // namespace

StepCost::Vector StepCost::features(const StepShape& shape) {
    return {1.0, static_cast<double>(shape.prefill_tokens) / kScale[1],
            static_cast<double>(shape.decode_rows) / kScale[2],
            static_cast<double>(shape.kv_tokens) / kScale[3]};
}

double StepCost::predict(const StepShape& shape) const {
    const Vector x = features(shape);
    return x[0] * terms_[0] + x[1] * terms_[1] + x[2] * terms_[2] + x[3] * terms_[3];
}

void StepCost::observe(const StepShape& shape, double seconds) {
    const Vector x = features(shape);
    constexpr std::int64_t kWarm = 16;
    const double error = std::abs(seconds - predict(shape));
    error_ = observations_ < kWarm ? error : 0.95 * error_ + 0.05 * std::min(error, 8 * error_ + 1e-4);
    ++observations_;
    for (std::size_t i = 0; i < kTerms; ++i) {
        for (std::size_t j = 0; j < kTerms; ++j) {
            gram_[i][j] = kKeep * gram_[i][j] + x[i] * x[j];
        }
        moment_[i] = kKeep * moment_[i] + x[i] * seconds;
    }
    solve();
}

void StepCost::solve() {
    const Vector last = terms_;
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
        for (std::size_t i = 0; i < kTerms; ++i) {
            double rest = moment_[i] + kPull * last[i];
            for (std::size_t j = 0; j < kTerms; ++j) {
                if (j != i) {
                    rest -= gram_[i][j] * terms_[j];
                }
            }
            terms_[i] = std::max(0.0, rest / (gram_[i][i] + kPull));
        }
    }
}

}  // namespace ts::scheduler
