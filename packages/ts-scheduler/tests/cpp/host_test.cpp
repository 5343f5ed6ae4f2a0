#include <optional>
#include <utility>
#include <vector>

#include "cache/block_table.h"
#include "cache/kv_cache.h"
#include "check.h"
#include "proof.h"
#include "transfer/ledger.h"

// The prefix index over two memories.
namespace {

using namespace ts::scheduler;

constexpr int kPageSize = 2;

// Two blocks, the second below the first, on the device alone and idle.
struct TwoBlocks {
    KvCache cache{4, kPageSize, true, 0, 4};
    Sequence sequence{{1, 2, 3, 4}, 8, {}, kPageSize};

    TwoBlocks() {
        BlockTable table;
        for (int block = 0; block < 2; ++block) {
            table.append(*cache.allocate());
        }
        with_proof([&](const SettleProof& proof) {
            table.publish(proof, cache.index(), sequence, 2, Retention::session);
        });
    }
    [[nodiscard]] std::optional<PrefixIndex::Node> parent() const {
        return cache.index().find(sequence.key(0, PrefixIndex::kRoot));
    }
    [[nodiscard]] std::optional<PrefixIndex::Node> child() const {
        return parent() ? cache.index().find(sequence.key(1, *parent())) : std::nullopt;
    }
    [[nodiscard]] Store store_of(PrefixIndex::Node node) {
        Store store;
        store.add(cache.index(), node, *cache.allocate_copy());
        return store;
    }
    void end(Store store, bool arrived = true) {
        TransferLedger ledger;
        ledger.start(std::move(store));
        const TransferId id = ledger.take_started().front().id;
        CHECK(!ledger.end(
            id,
            [&](Store ended, const TransferProof& proof) {
                std::move(ended).end(proof, arrived, cache.index());
            },
            [](Request&, const TransferProof&) {}));
    }
};

TEST(a_block_that_has_a_copy_outlives_its_page) {
    TwoBlocks blocks;
    blocks.end(blocks.store_of(*blocks.child()));
    CHECK(blocks.cache.index().evict());
    CHECK(blocks.child() && !blocks.cache.index().on_device(*blocks.child()));
    CHECK(blocks.cache.index().on_device(*blocks.parent()));
    CHECK(blocks.cache.pool().free() == 3 && blocks.cache.host().free() == 3);
}

TEST(a_block_that_goes_takes_those_below_it_along) {
    TwoBlocks blocks;
    blocks.end(blocks.store_of(*blocks.child()));
    CHECK(blocks.cache.index().evict() && blocks.cache.index().evict());
    CHECK(!blocks.parent() && blocks.cache.index().copies().empty());
    CHECK(blocks.cache.pool().free() == 4 && blocks.cache.host().free() == 4);
    CHECK(!blocks.cache.index().evict() && !blocks.cache.index().evict_copy());
}

TEST(what_is_being_copied_does_not_stay_when_its_parent_leaves_the_device) {
    TwoBlocks blocks;
    blocks.end(blocks.store_of(*blocks.parent()));
    Store store = blocks.store_of(*blocks.child());
    CHECK(blocks.cache.index().evict());  // the parent: the child is not idle
    CHECK(blocks.parent() && !blocks.cache.index().on_device(*blocks.parent()) && !blocks.child());
    blocks.end(std::move(store));
    CHECK(blocks.cache.index().copies().size() == 1 && blocks.cache.pool().free() == 4);
}

TEST(a_block_is_as_near_to_its_eviction_after_copying_as_before) {
    TwoBlocks blocks;
    const auto before = blocks.cache.pool().idle_pages().in_order();
    blocks.end(blocks.store_of(*blocks.child()));
    CHECK(blocks.cache.pool().idle_pages().in_order() == before);
    Store store = blocks.store_of(*blocks.parent());
    blocks.cache.index().touch(*blocks.parent(), Retention::session);  // somebody asks for it meanwhile
    blocks.end(std::move(store), false);
    CHECK(blocks.cache.pool().idle_pages().in_order() == before);
    CHECK(!blocks.cache.index().has_copy(*blocks.parent()));
}

}  // namespace
