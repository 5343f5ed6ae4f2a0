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
    // Of a stop: after how many of the row's tokens it comes.
    std::int32_t after = 0;
    // Of a settle: how many tokens each row has, as a number whose digits count from one; 0: one each.
    std::int32_t accepted = 0;
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
    struct Use {
        RequestId request;
        std::vector<PageId> table;
        Position start;  // the least that it can be: an earlier row's drafts may move it on
        Position count;
        Position drafts;
        bool samples;
    };
    StepId step;
    std::vector<Use> uses;

    // The most tokens that each sampling row can have.
    [[nodiscard]] std::vector<Position> most() const {
        std::vector<Position> result;
        for (const Use& use : uses) {
            if (use.samples) {
                result.push_back(1 + use.drafts);
            }
        }
        return result;
    }
};

}  // namespace explore
