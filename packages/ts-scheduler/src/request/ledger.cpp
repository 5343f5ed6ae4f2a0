#include "request/ledger.h"

#include <algorithm>
#include <string>

namespace ts::scheduler {
namespace {

// What is wrong with a row that has `count` tokens, the first of these.
std::optional<std::string> problem_with_row(const RowInFlight& row, Position count,
                                            std::span<const Token> tokens) {
    if (count < 1 || count > 1 + row.drafts) {
        return std::to_string(count) + " tokens in a row that can have 1 to " +
               std::to_string(1 + row.drafts);
    }
    const auto own = tokens.first(std::min(static_cast<std::size_t>(count), tokens.size()));
    if (count > 1 && std::ranges::find(own, kUnusable) != own.end()) {
        return "an unusable token beside others; send those before it alone";
    }
    return std::nullopt;
}

}  // namespace

void StepLedger::launch() {
    Step& step = at(in_flight_);
    step.id = next_++;
    step.samples = static_cast<std::size_t>(std::ranges::count_if(step.rows, &RowInFlight::samples));
    ++in_flight_;
}

std::optional<SettleError> StepLedger::problem_with(StepId step, std::span<const Token> tokens,
                                                    std::span<const Position> accepted) const {
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
    if (!accepted.empty()) {
        if (auto problem = problem_with(oldest, tokens, accepted)) {
            return problem;
        }
    } else if (tokens.size() != oldest.samples) {
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

// What is wrong with how many tokens the rows accepted, or nothing.
std::optional<SettleError> StepLedger::problem_with(const Step& step, std::span<const Token> tokens,
                                                    std::span<const Position> accepted) {
    const std::string name = "step " + std::to_string(step.id) + " has ";
    if (accepted.size() != step.samples) {
        return SettleError{SettleCode::wrong_accepted,
                           name + std::to_string(accepted.size()) + " accepted counts; send " +
                               std::to_string(step.samples) + ", one for each sampling row, or none"};
    }
    auto rest = tokens;
    std::size_t used = 0;
    std::size_t next = 0;
    for (const RowInFlight& row : step.rows) {
        if (!row.samples) {
            continue;
        }
        const Position count = accepted[next];
        if (auto problem = problem_with_row(row, count, rest)) {
            return SettleError{SettleCode::wrong_accepted,
                               name + *problem + " (sampling row " + std::to_string(next) + ")"};
        }
        used += static_cast<std::size_t>(count);
        rest = tokens.subspan(std::min(used, tokens.size()));
        ++next;
    }
    if (used != tokens.size()) {
        return SettleError{SettleCode::wrong_count, name + std::to_string(tokens.size()) +
                                                        " tokens; its accepted counts make " +
                                                        std::to_string(used)};
    }
    return std::nullopt;
}

}  // namespace ts::scheduler
