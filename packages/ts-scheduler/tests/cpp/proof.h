#pragma once

#include "request/ledger.h"

// Runs `body` with a proof, obtained as everybody has to: by settling a step.
template <class Body>
void with_proof(Body&& body) {
    ts::scheduler::StepLedger ledger(1, 1);
    ledger.begin();
    ledger.rows().push_back({nullptr, 1, false, false});
    ledger.launch();
    ledger.settle({}, {},
                  [&](const ts::scheduler::RowInFlight&, std::span<const ts::scheduler::Token>,
                      const ts::scheduler::SettleProof& proof) { body(proof); });
}
