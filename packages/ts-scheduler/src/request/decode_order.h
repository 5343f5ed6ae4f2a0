#pragma once

#include <vector>

#include "request/ledger.h"
#include "ts/scheduler/plan.h"

namespace ts::scheduler {

// Puts a step's decodes into the order in which they travel: those of the usual number of positions by slot,
// for a bit says all of such a row, and then the others, which need one of four numbers.
class DecodeOrder {
 public:
    explicit DecodeOrder(Position usual) : usual_(usual) {}

    // `plan` and `in_flight` have the step's decodes and nothing else yet, in the same order.
    void apply(StepPlan& plan, std::vector<RowInFlight>& in_flight);

 private:
    void mark(StepPlan& plan);
    void sort(const StepPlan& plan, const std::vector<RowInFlight>& in_flight);

    Position usual_;
    std::vector<std::size_t> places_;  // by slot: which of the rows is its
    std::vector<Row> rows_;
    std::vector<RowInFlight> in_flight_;
};

}  // namespace ts::scheduler
