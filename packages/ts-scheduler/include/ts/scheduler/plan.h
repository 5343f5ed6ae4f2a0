#pragma once

#include <string>
#include <vector>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

// Flags of a row, as on the wire.
inline constexpr std::int32_t kRowSample = 1;         // the row's last position yields a sampled token
inline constexpr std::int32_t kRowTokenOnDevice = 2;  // the row's first token is the slot's last sampled one

// One request's part of a step. The layout is the wire's: int32 [4].
//
// A row with kRowTokenOnDevice computes the position of that token and count - 1 more for drafts of what
// follows. While an earlier row with drafts is in flight, only the worker's device knows where this one
// starts: `start` is the position if all of those are accepted, and the count is right wherever it starts.
struct Row {
    SlotId slot;
    Position start;
    Position count;
    std::int32_t flags;
};
static_assert(sizeof(Row) == 4 * sizeof(std::int32_t));

// A page put at a block of a slot's block table before the step runs. The layout is the wire's: int32 [4].
struct PageEntry {
    SlotId slot;
    std::int32_t group;  // 0: full attention
    std::int32_t block;  // of a state group: 0, its only page
    PageId page;
};
static_assert(sizeof(PageEntry) == 4 * sizeof(std::int32_t));

// A copy between a slot's state and another page of its group. The layout is the wire's: int32 [5].
struct StateEntry {
    SlotId slot;
    std::int32_t group;
    PageId page;
    Position position;  // tokens that the copied state has taken in
    std::int32_t save;  // 0: the slot's state becomes the page's before the step; 1: the page the slot's,
                        // when the step has come to the position
};
static_assert(sizeof(StateEntry) == 5 * sizeof(std::int32_t));

// A slot that starts serving a request; its block table is emptied first.
struct Admission {
    SlotId slot;
    RequestId request;
};

// One forward step, as a difference to the step before: decodes first, those that travel as bits by slot,
// then prefill chunks in the order of turns.
struct StepPlan {
    StepId step = 0;
    std::vector<Row> rows;
    std::string decodes;  // bit i of byte i / 8: slot i decodes all positions that a decode can have, from
                          // where its last row ended
    std::size_t implied = 0;    // rows, the first ones, that those bits say: they do not travel
    std::vector<Token> tokens;  // of the rows without kRowTokenOnDevice, concatenated
    std::vector<PageEntry> pages;
    std::vector<StateEntry> states;
    std::vector<Admission> admits;
    std::vector<SlotId> releases;
    std::string
        message;  // step, admits, releases and decodes as one MessagePack message, ts_protocol's StepPlan
};

}  // namespace ts::scheduler
