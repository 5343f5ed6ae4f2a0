#include "policy/tps_floor.h"

#include <algorithm>

namespace ts::scheduler {

double TpsFloor::seconds() const { return std::max(limit_ - 2 * cost_.error(), limit_ / 2); }

Position TpsFloor::chunk(const StepShape& step, Position start, Position most) const {
    if (!on() || step.decode_rows == 0) {
        return most;
    }
    const double left = seconds() - cost_.predict(step) - cost_.per_kv_token() * start;
    const double each = cost_.per_prefill_token() + cost_.per_kv_token();
    if (left <= 0) {
        return 0;
    }
    return left >= each * most ? most : static_cast<Position>(left / each);
}

bool TpsFloor::admits(const StepShape& decodes, Position tokens) const {
    if (!on() || decodes.decode_rows == 0) {
        return true;
    }
    const StepShape with{
        .prefill_tokens = 0, .decode_rows = decodes.decode_rows + 1, .kv_tokens = decodes.kv_tokens + tokens};
    return cost_.predict(with) <= seconds();
}

}  // namespace ts::scheduler
