#pragma once

#include <cstdint>
#include <unordered_map>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

// A place in the line: the lower key goes first. `start` is the key without priority.
struct Turn {
    std::int64_t start = 0;
    std::int64_t key = 0;
};

// Whose turn it is: start-time fair queueing between users, with a head start for priority.
//
// Virtual time is counted in tokens of service. A request starts where its user's last one ends, or now if
// the user has nothing outstanding, so whoever floods the line queues behind itself alone. A level of
// priority is a head start of fixed length, not a class of its own: virtual time passes those who wait, so
// each request goes ahead of all that come after it has waited for its head start's worth of service. One
// user's requests of one priority keep their order of arrival.
class Turns {
 public:
    explicit Turns(std::int64_t head_start) : head_start_(head_start) {}

    // At submission: a turn for work of this many tokens.
    [[nodiscard]] Turn take(UserId user, int priority, std::int64_t tokens);
    // The request is being served: virtual time moves on by what it costs each user who waits.
    void serve(UserId user, Turn turn, std::int64_t tokens);
    // It left the line unserved.
    void leave(UserId user);
    // The user had more service than it asked for with take().
    void charge(UserId user, std::int64_t tokens);

    [[nodiscard]] int waiting(UserId user) const;
    [[nodiscard]] std::size_t users() const { return users_.size(); }

 private:
    struct User {
        std::int64_t finish = 0;
        int waiting = 0;
    };
    void forget_idle_users();

    std::int64_t head_start_;
    std::int64_t now_ = 0;
    std::int64_t carried_ = 0;  // of tokens served, those that were too few to move `now_`
    std::int64_t active_ = 0;   // users with requests in line
    std::unordered_map<UserId, User> users_;
    std::size_t sweep_at_ = 1024;
};

}  // namespace ts::scheduler
