#pragma once

#include <algorithm>

#include "cache/kv_cache.h"
#include "transfer/ledger.h"

namespace ts::scheduler {

// Copies cached blocks to the host before their turn to be evicted comes, one transfer at a time: so blocks
// get to the host in the order in which they leave the device, and eviction itself never waits for a copy.
class WriteBack {
 public:
    // Among the `ahead` pages that an allocation would take next, those worth it have copies.
    WriteBack(int ahead, KvCache& cache, TransferLedger& transfers)
        : ahead_(ahead), cache_(&cache), transfers_(&transfers) {}

    void step() {
        if (cache_->host().total() == 0 || transfers_->storing()) {
            return;
        }
        Store store;
        for (const PrefixIndex::Node node :
             cache_->index().without_copy(ahead_ - cache_->pool().free(), kMost)) {
            auto copy = cache_->allocate_copy();
            if (!copy) {
                break;
            }
            if (cache_->index().on_device(node)) {  // it may have hung below the block that made room
                store.add(cache_->index(), node, *std::move(copy));
            }
        }
        if (!store.empty()) {
            transfers_->start(std::move(store));
        }
    }

 private:
    static constexpr std::size_t kMost = 64;  // pages of a transfer

    int ahead_;
    KvCache* cache_;
    TransferLedger* transfers_;
};

}  // namespace ts::scheduler
