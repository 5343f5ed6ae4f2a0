#include "transfer/ledger.h"

#include <string>

namespace ts::scheduler {

void TransferLedger::start(Store store) {
    Transfer& transfer = started_.emplace_back();
    transfer.id = next_++;
    transfer.kind = TransferKind::store;
    store.for_each_pair(
        [&](PageId device, PageId host) { transfer.pages.push_back({.device = device, .host = host}); });
    under_way_.emplace(transfer.id, std::move(store));
    ++stores_;
}

void TransferLedger::start(TransferKind kind, Request& request, RequestId id, Position tokens,
                           std::vector<PagePair> pages) {
    started_.push_back(
        {.id = next_++, .kind = kind, .request = id, .tokens = tokens, .pages = std::move(pages)});
    under_way_.emplace(started_.back().id, &request);
}

const std::vector<Transfer>& TransferLedger::take_started() {
    taken_.clear();
    taken_.swap(started_);
    return taken_;
}

TransferError TransferLedger::unknown(TransferId id) {
    return {TransferCode::unknown_transfer,
            "transfer " + std::to_string(id) + " is not under way; report the end of each once"};
}

}  // namespace ts::scheduler
