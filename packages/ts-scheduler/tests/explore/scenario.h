#pragma once

#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "ts/scheduler/scheduler.h"

namespace explore {

using namespace ts::scheduler;

struct Scenario {
    const char* name;
    bool preempts;
    bool failures;  // a token may come back unusable
    Config config;
    std::vector<Submission> requests;          // submitted in this order; ids count from 1
    std::vector<std::string_view> must_see{};  // states that have to occur
};

enum class Kind : std::uint8_t { submit, plan, settle, fail, abort, arrive, lose };

struct Action {
    Kind kind;
    // Of an abort: the request. Of a settle: the sampling row that stops, -1 for none. Of a failure: the
    // sampling row whose token is unusable. Of an arrival or a loss: which of the transfers under way.
    std::int32_t which = -1;
};

constexpr Token kGoOn = 1;
constexpr Token kStop = 9;

inline void require(bool holds, const char* what) {
    if (!holds) {
        throw std::runtime_error(what);
    }
}

// What a step in flight reads and writes, taken from its plan.
struct StepInFlight {
    StepId step;
    std::size_t samples;
    struct Use {
        RequestId request;
        std::vector<PageId> table;
        std::size_t first_written;  // of table
    };
    std::vector<Use> uses;
};

}  // namespace explore
