#pragma once

#include <string>

#include "request/book.h"
#include "ts/scheduler/plan.h"

namespace ts::scheduler {

// Replaces `out` by the plan's message, ts_protocol.messages.StepPlan: what is not in the int32 frames.
void encode_plan(const StepPlan& plan, const RequestBook& book, std::string& out);

}  // namespace ts::scheduler
