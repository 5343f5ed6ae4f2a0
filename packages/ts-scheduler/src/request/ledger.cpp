#include "request/ledger.h"

#include <algorithm>
#include <string>

namespace ts::scheduler {

void StepLedger::launch() {
    Step& step = at(in_flight_);
    step.id = next_++;
    step.samples = static_cast<std::size_t>(std::ranges::count_if(step.rows, &RowInFlight::samples));
    ++in_flight_;
}

std::optional<SettleError> StepLedger::problem_with(StepId step, std::span<const Token> tokens) const {
    const auto name = [&] { return "step " + std::to_string(step); };
    if (in_flight_ == 0 || step < at(0).id || step >= next_) {
        return SettleError{SettleCode::unknown_step, name() + " is not in flight; send each result once"};
    }
    const Step& oldest = at(0);
    if (step != oldest.id) {
        return SettleError{SettleCode::out_of_order, name() + " came back before step " +
                                                         std::to_string(oldest.id) +
                                                         "; send results in the order of the plans"};
    }
    if (tokens.size() != oldest.samples) {
        return SettleError{SettleCode::wrong_count, name() + " has " + std::to_string(tokens.size()) +
                                                        " tokens; send one for each of its " +
                                                        std::to_string(oldest.samples) + " sampling rows"};
    }
    for (const Token token : tokens) {
        if (token != kUnusable && (token < 0 || token >= vocab_)) {
            return SettleError{SettleCode::invalid_token, name() + " has token " + std::to_string(token) +
                                                              "; send ids from 0 up to the vocabulary's " +
                                                              std::to_string(vocab_)};
        }
    }
    return std::nullopt;
}

}  // namespace ts::scheduler
