#include "policy/tps_floor.h"

#include <algorithm>

namespace ts::scheduler {

void TpsFloor::observe(const StepShape& shape, double seconds) {
    cost_.observe(shape, seconds);
    clock_ += seconds;
    if (shape.prefill_tokens > 0) {
        prefilled_ = clock_;
    }
}

Due TpsFloor::next_token(Due due, Position tokens) const {
    return std::clamp(due + limit_ * tokens, clock_ - kCredit, clock_ + std::max(kCredit, limit_));
}

void TpsFloor::begin(double ahead) {
    starts_ = clock_ + ahead;
    earliest_ = std::numeric_limits<double>::infinity();
}

void TpsFloor::expect(Due due, int steps) {
    // The first token comes with the steps under way, and the one after it is due from then.
    earliest_ = std::min(earliest_, due > 0 ? due + limit_ * steps : starts_ + limit_);
}

// A floor that one answer alone cannot keep is none.
bool TpsFloor::holds(const StepShape& decodes) const {
    return limit_ > 0 && cost_.observations() >= kLearn && decodes.decode_rows > 0 &&
           (decodes.decode_rows > 1 || cost_.predict(decodes) <= limit_);
}

Position TpsFloor::chunk(const StepShape& step, Position start, Position most) const {
    if (!holds(step)) {
        return most;
    }
    const double sure = std::max(0.5, 1 - 2 * cost_.error());
    double fits = cost_.tokens_within(sure * (earliest_ - starts_) - kReserve * limit_, step, start);
    double worthwhile = 1;
    if (step.prefill_tokens == 0) {
        const double patience = std::max(0.0, 1 - (starts_ - prefilled_) / kPatience);
        worthwhile = std::max(1.0, patience * cost_.tokens_within(kCredit / 2, step, start));
        fits = patience > 0 ? fits : std::max<double>(fits, kLeast);
    }
    if (fits < std::min(worthwhile, static_cast<double>(most))) {
        return 0;
    }
    return fits >= most ? most : static_cast<Position>(fits);
}

bool TpsFloor::admits(const StepShape& decodes, Position tokens) const {
    if (!holds(decodes)) {
        return true;
    }
    StepShape with = decodes;
    with.add_decode(tokens);
    return cost_.predict(with) <= limit_;
}

}  // namespace ts::scheduler
