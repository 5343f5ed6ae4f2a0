#include "policy/step_cost.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace ts::scheduler {
namespace {

constexpr double kKeep = 0.998;  // of an observation's weight after each later one: half after 350 steps
constexpr double kPull = 1e-4;   // towards the last solution
constexpr int kSweeps = 8;
constexpr std::int64_t kWarm = 16;
constexpr double kMostMiss =
    16;  // times the prediction: a machine that stopped for a while says nothing of steps
// What steps that are all alike leave open goes to the first of these: a cost per token, which smaller chunks
// then put to the test, and not a fixed one, which would speak against any.
constexpr std::array<std::size_t, StepCost::kTerms> kOrder{2, 3, 4, 5, 0, 1};

}  // namespace

StepCost::Vector StepCost::features(const StepShape& shape) {
    const Vector sizes{1.0,
                       shape.prefill_tokens > 0 ? 1.0 : 0.0,
                       static_cast<double>(shape.prefill_tokens),
                       static_cast<double>(shape.prefill_pairs),
                       static_cast<double>(shape.decode_rows),
                       static_cast<double>(shape.kv_tokens)};
    Vector scaled{};
    std::ranges::transform(sizes, kScale, scaled.begin(), std::divides{});
    return scaled;
}

StepCost::Vector StepCost::terms() const {
    Vector each{};
    std::ranges::transform(terms_, kScale, each.begin(), std::divides{});
    return each;
}

double StepCost::predict(const StepShape& shape) const {
    const Vector x = features(shape);
    return std::inner_product(x.begin(), x.end(), terms_.begin(), 0.0);
}

// n tokens cost n * (token + pair * start) + n^2 / 2 * pair.
double StepCost::tokens_within(double seconds, const StepShape& shape, Position start) const {
    const auto [fixed, prompts, token, pair, row, kv] = terms();
    const double left = seconds - predict(shape) - (shape.prefill_tokens > 0 ? 0.0 : prompts);
    if (left <= 0) {
        return 0;
    }
    const double each = token + pair * start;
    const double root = std::sqrt(each * each + 2 * pair * left);
    return std::isfinite(left) && root + each > 0 ? 2 * left / (root + each)
                                                  : std::numeric_limits<double>::infinity();
}

void StepCost::observe(const StepShape& shape, double seconds) {
    const Vector x = features(shape);
    const double predicted = predict(shape);
    if (observations_ >= kWarm && predicted > 0) {
        seconds = std::min(seconds, kMostMiss * predicted);
    }
    const double error = std::abs(seconds - predicted) / seconds;
    error_ = observations_ < kWarm ? error : 0.95 * error_ + 0.05 * std::min(error, 8 * error_ + 1e-3);
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
    Vector inverse{};
    for (std::size_t i = 0; i < kTerms; ++i) {
        inverse[i] = 1 / (gram_[i][i] + kPull);
    }
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
        for (const std::size_t i : kOrder) {
            double rest = moment_[i] + kPull * last[i];
            for (std::size_t j = 0; j < kTerms; ++j) {
                if (j != i) {
                    rest -= gram_[i][j] * terms_[j];
                }
            }
            terms_[i] = std::max(0.0, rest * inverse[i]);
        }
    }
}

}  // namespace ts::scheduler
