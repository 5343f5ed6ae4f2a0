#include "request/decode_order.h"

#include <bit>
#include <cstdint>

namespace ts::scheduler {

void DecodeOrder::apply(StepPlan& plan, std::vector<RowInFlight>& in_flight) {
    mark(plan);
    sort(plan, in_flight);
    plan.rows.swap(rows_);
    in_flight.swap(in_flight_);
}

// Sets the bits, and remembers where each slot's row is.
void DecodeOrder::mark(StepPlan& plan) {
    plan.decodes.clear();
    plan.implied = 0;
    for (std::size_t i = 0; i < plan.rows.size(); ++i) {
        if (plan.rows[i].count != usual_) {
            continue;
        }
        const auto slot = static_cast<std::size_t>(plan.rows[i].slot);
        if (places_.size() <= slot) {
            places_.resize(slot + 1);
        }
        if (plan.decodes.size() <= slot / 8) {
            plan.decodes.resize(slot / 8 + 1);
        }
        places_[slot] = i;
        plan.decodes[slot / 8] =
            static_cast<char>(static_cast<unsigned char>(plan.decodes[slot / 8]) | 1U << slot % 8);
        ++plan.implied;
    }
}

void DecodeOrder::sort(const StepPlan& plan, const std::vector<RowInFlight>& in_flight) {
    rows_.clear();
    in_flight_.clear();
    for (std::size_t byte = 0; byte < plan.decodes.size(); ++byte) {
        for (unsigned bits = static_cast<unsigned char>(plan.decodes[byte]); bits != 0; bits &= bits - 1) {
            const std::size_t place = places_[8 * byte + static_cast<std::size_t>(std::countr_zero(bits))];
            rows_.push_back(plan.rows[place]);
            in_flight_.push_back(in_flight[place]);
        }
    }
    for (std::size_t i = 0; plan.implied < plan.rows.size() && i < plan.rows.size(); ++i) {
        if (plan.rows[i].count != usual_) {
            rows_.push_back(plan.rows[i]);
            in_flight_.push_back(in_flight[i]);
        }
    }
}

}  // namespace ts::scheduler
