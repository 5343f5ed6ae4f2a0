#pragma once

#include <string>
#include <utility>

#include "cache/prefix_match.h"
#include "cache/retention.h"
#include "cache/sequence.h"
#include "policy/tps_floor.h"
#include "policy/turns.h"
#include "request/dispatch.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// What a request was submitted with, beside its tokens.
struct Terms {
    UserId user = 0;
    int priority = 0;
    bool session = false;
    bool send = false;
    bool receive = false;
    std::string sampling;
};

// One request: what it is, its tokens so far, and its state, which owns what it holds.
struct Request {
    Request(RequestId identity, std::int64_t arrived, Turn its_turn, Terms asked, Sequence tokens)
        : id(identity),
          arrival(arrived),
          turn(its_turn),
          user(asked.user),
          priority(asked.priority),
          sends(asked.send),
          receives(asked.receive),
          sampling(std::move(asked.sampling)),
          retention(asked.session ? Retention::session : Retention::once),
          sequence(std::move(tokens)) {}

    RequestId id;
    std::int64_t arrival;  // order of submission
    Turn turn;
    UserId user;
    int priority;
    bool sends;     // a peer takes it over after its next token
    bool receives;  // its pages come from a peer, once
    std::string sampling;
    Retention retention;
    Sequence sequence;
    State state = Queued{};
    PrefixMatch match;           // while it waits
    Position cached_tokens = 0;  // prompt tokens taken from the prefix cache when first admitted
    bool continues = false;      // took up a cached conversation when it was submitted
    int admissions = 0;
    Due due = 0;
};

// The order in which requests are served.
struct ByTurn {
    [[nodiscard]] bool operator()(const Request* a, const Request* b) const {
        return a->turn.key != b->turn.key ? a->turn.key < b->turn.key : a->arrival < b->arrival;
    }
};

}  // namespace ts::scheduler
