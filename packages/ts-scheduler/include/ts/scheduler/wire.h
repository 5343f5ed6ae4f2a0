#pragma once

#include <span>
#include <string>

#include "ts/scheduler/event.h"

namespace ts::scheduler {

// Replaces `out` by the outputs as one MessagePack message, ts_protocol.messages.TokenBatch, less those of
// requests that failed for want of a usable token.
void encode_outputs(std::span<const Output> outputs, std::string& out);

}  // namespace ts::scheduler
