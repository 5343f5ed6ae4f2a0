#include "request/book.h"

#include <algorithm>

namespace ts::scheduler {

Request* RequestBook::find(RequestId id) const {
    const auto found = requests_.find(id);
    return found == requests_.end() ? nullptr : found->second.get();
}

std::size_t RequestBook::after(const Request& request) const {
    const auto place = std::ranges::upper_bound(running_, &request, ByTurn{});
    return static_cast<std::size_t>(place - running_.begin());
}

std::vector<const Request*> RequestBook::all() const {
    std::vector<const Request*> result;
    result.reserve(requests_.size());
    for (const auto& [id, request] : requests_) {
        result.push_back(request.get());
    }
    std::ranges::sort(result, {}, &Request::arrival);
    return result;
}

Request& RequestBook::add(std::unique_ptr<Request> request) {
    Request& result = *request;
    ++arrivals_;
    requests_.emplace(result.id, std::move(request));
    join_line(result);
    return result;
}

void RequestBook::move_to_running(Request& request) {
    (void)leave_line(request);
    running_.insert(running_.begin() + static_cast<std::ptrdiff_t>(after(request)), &request);
}

void RequestBook::move_to_waiting(Request& request) {
    std::erase(running_, &request);
    join_line(request);
    ++preemptions_;
}

void RequestBook::remove(Request& request) {
    if (!leave_line(request)) {
        std::erase(running_, &request);
    }
    requests_.erase(request.id);
}

void RequestBook::join_line(Request& request) {
    waiting_.insert(&request);
    waiting_tokens_ += request.sequence.size();
    if (request.continues) {
        continuing_.insert(&request);
    }
}

bool RequestBook::leave_line(Request& request) {
    if (waiting_.erase(&request) == 0) {
        return false;
    }
    waiting_tokens_ -= request.sequence.size();
    continuing_.erase(&request);
    return true;
}

}  // namespace ts::scheduler
