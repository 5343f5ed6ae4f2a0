#pragma once

#include <span>
#include <string_view>

#include "cache/cache_groups.h"
#include "cache/page.h"
#include "cache/prefix_index.h"
#include "cache/sequence.h"
#include "request/lease.h"
#include "request/step_builder.h"
#include "transfer/arrival.h"

namespace ts::scheduler {

// A slot and pages for the whole sequence so far.
struct Admit {
    static constexpr std::string_view kName = "Admit";
    LeasePtr lease;
};

// A slot and pages, some of which are being copied from the host.
struct Load {
    static constexpr std::string_view kName = "Load";
    LeasePtr lease;
    Arrival arrival;
};

// A slot and pages, which a peer fills up to the last token.
struct Receive {
    static constexpr std::string_view kName = "Receive";
    LeasePtr lease;
    Arrival arrival;
};

// A part of the prompt that is not its end.
struct PlanChunk {
    static constexpr std::string_view kName = "PlanChunk";
    StepBuilder& step;
    std::span<const Token> tokens;
};

// The rest of the prompt: its last position samples.
struct PlanLastChunk {
    static constexpr std::string_view kName = "PlanLastChunk";
    StepBuilder& step;
    std::span<const Token> tokens;
};

// The next token and drafts of those after it, on fresh pages where the request has none for them.
struct PlanDecode {
    static constexpr std::string_view kName = "PlanDecode";
    StepBuilder& step;
    Position count;                 // positions, with those for drafts
    std::span<WritablePage> pages;  // taken
};

// The oldest step in flight came back with this request's row.
struct StepSettled {
    static constexpr std::string_view kName = "StepSettled";
    const SettleProof& proof;
    Sequence& sequence;
    PrefixIndex* index;  // null without prefix reuse
    Position count;      // positions that the row computed
    Position drafts;     // those of them that were for drafts
    std::span<const Token> tokens;
    CacheGroups* groups = nullptr;  // null without any
};

// A peer reads the pages from now on, and goes on with the request.
struct Send {
    static constexpr std::string_view kName = "Send";
};

// The transfer that the request waits for has ended.
struct TransferEnded {
    static constexpr std::string_view kName = "TransferEnded";
    const TransferProof& proof;
    bool arrived;  // else it failed, and what it should have brought is computed
    const Sequence& sequence;
    PrefixIndex* index;  // null without prefix reuse
};

// Others need the pages: give them back now. Nothing may be in flight.
struct Preempt {
    static constexpr std::string_view kName = "Preempt";
};

// Others need the pages: plan no further, and give them back when the steps in flight have settled.
struct Yield {
    static constexpr std::string_view kName = "Yield";
};

// The client has gone.
struct Abort {
    static constexpr std::string_view kName = "Abort";
};

}  // namespace ts::scheduler
