#include "policy/turns.h"

#include <algorithm>

#include "invariant.h"

namespace ts::scheduler {

Turn Turns::take(UserId user, int priority, std::int64_t tokens) {
    forget_idle_users();
    User& entry = users_[user];
    const std::int64_t start = std::max(now_, entry.finish);
    entry.finish = start + tokens;
    if (entry.waiting++ == 0) {
        ++active_;
    }
    return {start, start - priority * head_start_};
}

void Turns::serve(UserId user, Turn turn, std::int64_t tokens) {
    const std::int64_t users = std::max<std::int64_t>(active_, 1);
    carried_ += tokens;
    now_ = std::max(now_, turn.start) + carried_ / users;
    carried_ %= users;
    leave(user);
}

void Turns::leave(UserId user) {
    const auto found = users_.find(user);
    invariant(found != users_.end() && found->second.waiting > 0, "who leaves the line stood in it");
    if (--found->second.waiting == 0) {
        --active_;
    }
}

void Turns::charge(UserId user, std::int64_t tokens) {
    const auto found = users_.find(user);
    if (found != users_.end()) {
        found->second.finish = std::max(found->second.finish, now_) + tokens;
    }
}

int Turns::waiting(UserId user) const {
    const auto found = users_.find(user);
    return found == users_.end() ? 0 : found->second.waiting;
}

// Amortized: the next sweep comes when the table has doubled.
void Turns::forget_idle_users() {
    if (users_.size() < sweep_at_) {
        return;
    }
    std::erase_if(users_, [this](const auto& entry) {
        return entry.second.waiting == 0 && entry.second.finish <= now_;
    });
    sweep_at_ = 2 * users_.size() + 1024;
}

}  // namespace ts::scheduler
