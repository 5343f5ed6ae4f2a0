#pragma once

#include <optional>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "cache/memory.h"
#include "transfer/store.h"
#include "ts/scheduler/transfer.h"

namespace ts::scheduler {

struct Request;

// The transfers under way. A request that waits for one stays alive until it has ended: its state has no
// other way out.
class TransferLedger {
 public:
    void start(Store store);
    void start(TransferKind kind, Request& request, RequestId id, Position tokens,
               std::vector<PagePair> pages);

    // Those started since the last call, for the worker.
    [[nodiscard]] const std::vector<Transfer>& take_started();

    [[nodiscard]] bool any() const { return !under_way_.empty(); }
    [[nodiscard]] bool storing() const { return stores_ > 0; }
    [[nodiscard]] std::int64_t size() const { return std::ssize(under_way_); }

    // Ends one: calls on_store(Store, TransferProof) or on_request(Request&, TransferProof).
    template <class OnStore, class OnRequest>
    [[nodiscard]] std::optional<TransferError> end(TransferId id, OnStore&& on_store,
                                                   OnRequest&& on_request) {
        const bool told = started_.empty() || id < started_.front().id;
        // NOLINTNEXTLINE(misc-const-correctness): what it holds is moved out
        auto node = told ? under_way_.extract(id) : decltype(under_way_)::node_type();
        if (node.empty()) {
            return unknown(id);
        }
        const TransferProof proof;
        if (auto* store = std::get_if<Store>(&node.mapped())) {
            --stores_;
            on_store(std::move(*store), proof);
        } else {
            on_request(*std::get<Request*>(node.mapped()), proof);
        }
        return std::nullopt;
    }

 private:
    [[nodiscard]] static TransferError unknown(TransferId id);

    std::unordered_map<TransferId, std::variant<Store, Request*>> under_way_;
    std::vector<Transfer> started_;
    std::vector<Transfer> taken_;
    int stores_ = 0;
    TransferId next_ = 1;
};

}  // namespace ts::scheduler
