#pragma once

#include "cache/kv_cache.h"
#include "policy/tps_floor.h"
#include "policy/turns.h"
#include "request/book.h"
#include "request/slot.h"
#include "transfer/ledger.h"
#include "ts/scheduler/config.h"
#include "ts/scheduler/event.h"

namespace ts::scheduler {

// Lets waiting requests in, in the order of their turns, each with pages for its whole sequence so far.
//
// A page is left free for each request that runs, so that newcomers do not cause the next preemption. After a
// preemption nobody enters until somebody has left: a request that gave its pages back gets them again when
// there is room, not to lose them at the next step. So there are at most as many preemptions between two
// departures as there are running requests, and recomputing never feeds itself.
//
// A new prompt, one that would compute more than it reuses, leaves alone the pages of sessions that have
// become idle lately, whose next turns will want them, and a part of the pool for the conversations under way
// to grow into: started all at once they would soon push out each other's pages. Meanwhile requests that go
// on with a cached conversation may pass it. After `new_prompt_wait_steps` it takes what it needs and nobody
// passes.
class AdmissionGate {
 public:
    AdmissionGate(const Config& config, RequestBook& book, KvCache& cache, SlotPool& slots,
                  TransferLedger& transfers, Turns& turns, TpsFloor& floor, Stats& stats)
        : patience_(config.new_prompt_wait_steps),
          growth_room_(static_cast<int>(config.growth_room * config.num_pages)),
          book_(&book),
          cache_(&cache),
          slots_(&slots),
          transfers_(&transfers),
          turns_(&turns),
          floor_(&floor),
          stats_(&stats) {}

    // Looks for what a new request can reuse, before it stands in line, and keeps that for it.
    void inspect(Request& request) const;

    // Puts a preempted request back in line. What it has computed is worth keeping, on the host if there is
    // one.
    void await_again(Request& request);

    // The next request that may enter beside these decodes, admitted; or nullptr.
    [[nodiscard]] Request* admit(const StepShape& decodes);

    [[nodiscard]] bool held() const { return held_; }
    [[nodiscard]] bool has_no_room() const { return no_room_; }
    // Steps for which the first in line has waited for room, at most the patience.
    [[nodiscard]] std::int64_t blocked_for() const;

    void on_step() {
        ++steps_;
        cache_->step();
    }
    void on_preemption() { held_ = true; }
    void on_departure() { held_ = no_room_ = false; }
    // The index has other blocks than before: the first request may have become cheaper.
    void on_publication() { no_room_ = false; }
    void on_arrival() { no_room_ = false; }
    void on_transfer() { no_room_ = false; }

 private:
    void keep(Request& request) const;
    [[nodiscard]] Request* next();
    [[nodiscard]] bool fits(Request& request);
    void enter(Request& request);
    [[nodiscard]] LeasePtr lease_for(Request& request);
    [[nodiscard]] std::vector<WritablePage> pages_for(Request& request);
    void await_pages(Request& request, LeasePtr lease, std::vector<WritablePage> pages);
    [[nodiscard]] Position found_tokens(const Request& request) const;
    [[nodiscard]] int blocks_of(const Request& request) const;
    void count(Request& request);

    std::int64_t patience_;
    int growth_room_;  // pages
    RequestBook* book_;
    KvCache* cache_;
    SlotPool* slots_;
    TransferLedger* transfers_;
    Turns* turns_;
    TpsFloor* floor_;
    Stats* stats_;
    bool held_ = false;     // after a preemption, until a departure
    bool no_room_ = false;  // nobody fitted, and nothing has changed since
    std::int64_t steps_ = 0;
    std::int64_t blocked_ = -1;  // arrival of the first in line, when it did not fit
    std::int64_t blocked_since_ = 0;
};

}  // namespace ts::scheduler
