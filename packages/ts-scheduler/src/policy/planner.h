#pragma once

#include <optional>
#include <vector>

#include "cache/kv_cache.h"
#include "policy/admission_gate.h"
#include "policy/tps_floor.h"
#include "policy/victim.h"
#include "policy/write_back.h"
#include "request/book.h"
#include "request/decode_order.h"
#include "request/ledger.h"
#include "request/step_builder.h"
#include "transfer/ledger.h"
#include "ts/scheduler/config.h"

namespace ts::scheduler {

// Chooses what the next step runs: every decode, then prompt chunks in the order of turns, as much as the
// step's tokens and the floor of the decodes allow.
class Planner {
 public:
    Planner(const Config& config, RequestBook& book, KvCache& cache, StepLedger& ledger,
            const TransferLedger& transfers, AdmissionGate& gate, WriteBack& write_back, TpsFloor& floor)
        : chunk_tokens_(config.chunk_tokens),
          draft_tokens_(config.draft_tokens),
          order_(1 + config.draft_tokens),
          book_(&book),
          cache_(&cache),
          ledger_(&ledger),
          transfers_(&transfers),
          gate_(&gate),
          write_back_(&write_back),
          floor_(&floor) {}

    // Fills rows, tokens, pages and admissions; false when nothing can run.
    [[nodiscard]] bool fill(StepPlan& plan);

 private:
    void decode_all(StepBuilder& step);
    void decode(StepBuilder& step, Request& request);
    [[nodiscard]] Position reserve(const Request& request, const Lease& lease);
    void continue_prompts(StepBuilder& step);
    void start_prompts(StepBuilder& step);
    [[nodiscard]] StepShape decodes_to_come() const;
    // False when the step has no time left for the prompt.
    bool chunk(StepBuilder& step, Request& request);
    [[nodiscard]] Request* victim();
    [[nodiscard]] std::optional<WritablePage> page_for(const Request& request);
    [[nodiscard]] bool pages_are_coming() const;

    int chunk_tokens_;
    Position draft_tokens_;
    DecodeOrder order_;
    RequestBook* book_;
    KvCache* cache_;
    StepLedger* ledger_;
    const TransferLedger* transfers_;
    AdmissionGate* gate_;
    WriteBack* write_back_;
    TpsFloor* floor_;
    std::vector<Victim> candidates_;
    std::vector<Request*> givers_;     // of candidates_
    std::vector<WritablePage> pages_;  // for the decode being planned
    int budget_ = 0;                   // tokens that the step may still take
};

}  // namespace ts::scheduler
