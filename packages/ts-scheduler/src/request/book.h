#pragma once

#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "request/request.h"

namespace ts::scheduler {

// All live requests, those that wait and those that hold a slot, each in the order of their turns.
class RequestBook {
 public:
    using Line = std::set<Request*, ByTurn>;

    [[nodiscard]] Request* find(RequestId id) const;
    [[nodiscard]] bool empty() const { return requests_.empty(); }
    [[nodiscard]] std::int64_t size() const { return std::ssize(requests_); }
    [[nodiscard]] const Line& waiting() const { return waiting_; }
    // Of those, the ones that go on with a cached conversation.
    [[nodiscard]] const Line& continuing() const { return continuing_; }
    [[nodiscard]] std::int64_t waiting_tokens() const { return waiting_tokens_; }
    [[nodiscard]] const std::vector<Request*>& running() const { return running_; }
    // Where in running() the first request stands that is served after this one.
    [[nodiscard]] std::size_t after(const Request& request) const;
    [[nodiscard]] std::vector<const Request*> all() const;
    [[nodiscard]] std::int64_t arrivals() const { return arrivals_; }
    [[nodiscard]] std::int64_t preemptions() const { return preemptions_; }

    Request& add(std::unique_ptr<Request> request);
    // A request that waited now holds a slot.
    void move_to_running(Request& request);
    // A request that held a slot was preempted and waits again, at its old place.
    void move_to_waiting(Request& request);
    // Forgets a request that has finished.
    void remove(Request& request);

 private:
    void join_line(Request& request);
    [[nodiscard]] bool leave_line(Request& request);

    std::unordered_map<RequestId, std::unique_ptr<Request>> requests_;
    Line waiting_;
    Line continuing_;
    std::vector<Request*> running_;
    std::int64_t waiting_tokens_ = 0;
    std::int64_t arrivals_ = 0;
    std::int64_t preemptions_ = 0;
};

}  // namespace ts::scheduler
