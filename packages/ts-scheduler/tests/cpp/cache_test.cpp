#include <algorithm>
#include <array>
#include <memory>
#include <set>
#include <type_traits>

#include "cache/block_table.h"
#include "cache/kv_cache.h"
#include "check.h"
#include "proof.h"

namespace {

using namespace ts::scheduler;

static_assert(!std::is_copy_constructible_v<WritablePage> &&
              std::is_nothrow_move_constructible_v<WritablePage>);
static_assert(!std::is_copy_constructible_v<SharedPage> && std::is_nothrow_move_constructible_v<SharedPage>);
static_assert(!std::is_default_constructible_v<SettleProof> &&
              !std::is_constructible_v<SharedPage, WritablePage>);

constexpr int kPageSize = 2;

SharedPage sealed_page(KvCache& cache) {
    std::optional<SharedPage> result;
    with_proof([&](const SettleProof& proof) { result.emplace(std::move(*cache.allocate()).seal(proof)); });
    return std::move(*result);
}

Sequence sequence_of(std::vector<Token> tokens) { return {std::move(tokens), 8, {}, kPageSize}; }

// Fills blocks of a table with fresh pages and publishes them all.
void fill(BlockTable& table, KvCache& cache, const Sequence& sequence,
          Retention retention = Retention::once) {
    const int blocks = sequence.full_blocks(sequence.size());
    while (table.size() < blocks) {
        table.append(std::move(*cache.allocate()));
    }
    with_proof(
        [&](const SettleProof& proof) { table.publish(proof, cache.index(), sequence, blocks, retention); });
}

TEST(pages_come_back_when_their_handles_die) {
    PagePool pool(3);
    {
        auto first = pool.allocate();
        auto second = pool.allocate();
        CHECK(first && second && first->id() != second->id());
        CHECK(pool.free() == 1);
        const WritablePage moved = std::move(*first);
        CHECK(pool.free() == 1);
    }
    CHECK(pool.free() == 3);
}

TEST(an_empty_pool_gives_nothing) {
    PagePool pool(1);
    auto only = pool.allocate();
    CHECK(only.has_value());
    CHECK(!pool.allocate().has_value());
}

TEST(a_shared_page_lives_as_long_as_its_last_holder) {
    KvCache cache(1, kPageSize, true);
    {
        auto first = std::make_unique<SharedPage>(sealed_page(cache));
        auto second = std::make_unique<SharedPage>(first->share());
        CHECK(cache.pool().references(first->id()) == 2);
        first.reset();
        CHECK(cache.pool().free() == 0);
        second.reset();
    }
    CHECK(cache.pool().free() == 1);
}

TEST(a_digest_collision_is_decided_by_the_tokens) {
    KvCache cache(4, kPageSize, true);
    PrefixIndex& index = cache.index();
    const std::array<Token, 2> block{1, 2};
    const std::array<Token, 2> other{3, 4};
    constexpr Digest kSame = 42;
    const auto page = sealed_page(cache);
    const auto other_page = sealed_page(cache);
    const BlockKey key{PrefixIndex::kRoot, {}, kSame, block};
    const BlockKey other_key{PrefixIndex::kRoot, {}, kSame, other};
    const auto node = index.publish(key, page, Retention::once).node;
    CHECK(!index.find(other_key));
    const auto other_node = index.publish(other_key, other_page, Retention::once).node;
    CHECK(node != other_node);
    CHECK(index.find(key) == node);
    CHECK(index.find(other_key) == other_node);
    CHECK(index.share(other_node, Retention::once).id() == other_page.id());
}

TEST(tenants_with_different_salts_share_nothing_even_at_equal_digests) {
    KvCache cache(4, kPageSize, true);
    PrefixIndex& index = cache.index();
    const std::array<Token, 2> block{1, 2};
    const auto page = sealed_page(cache);
    const Salt mine{.low = 7, .high = 0};
    (void)index.publish({PrefixIndex::kRoot, mine, 42, block}, page, Retention::once);
    CHECK(index.find({PrefixIndex::kRoot, mine, 42, block}));
    CHECK(!index.find({PrefixIndex::kRoot, Salt{}, 42, block}));
    CHECK(!index.find({PrefixIndex::kRoot, Salt{.low = 7, .high = 1}, 42, block}));
    CHECK(root_digest(mine) != root_digest({}) && root_digest({.low = 0, .high = 7}) != root_digest(mine));
}

TEST(an_equal_block_below_another_parent_is_another_block) {
    KvCache cache(4, kPageSize, true);
    PrefixIndex& index = cache.index();
    const std::array<Token, 2> block{1, 2};
    constexpr Digest kSame = 42;
    const auto page = sealed_page(cache);
    const auto node = index.publish({PrefixIndex::kRoot, {}, kSame, block}, page, Retention::once).node;
    CHECK(!index.find({node, {}, kSame, block}));
}

TEST(digests_differ_by_prefix_order_and_length) {
    std::set<Digest> digests;
    for (Token a = 0; a < 40; ++a) {
        for (Token b = 0; b < 40; ++b) {
            const std::array<Token, 2> block{a, b};
            digests.insert(extend(root_digest({}), block));
            digests.insert(
                extend(extend(root_digest({}), std::span(block).first(1)), std::span(block).last(1)));
        }
    }
    CHECK(digests.size() == 2 * 40 * 40);
}

TEST(digests_see_every_token_of_a_long_block) {
    for (const std::size_t size : {16, 17, 64}) {
        std::set<Digest> digests;
        for (std::size_t place = 0; place < size; ++place) {
            for (Token id = 1; id < 40; ++id) {
                std::vector<Token> block(size);
                block[place] = id;
                digests.insert(extend(root_digest({}), block));
            }
        }
        CHECK(digests.size() == 39 * size);
    }
}

TEST(an_idle_duplicate_is_replaced) {
    KvCache cache(4, kPageSize, true);
    const Sequence sequence = sequence_of({1, 2});
    auto first = std::make_unique<BlockTable>();
    fill(*first, cache, sequence);
    const PageId page = first->page(0);
    first.reset();
    CHECK(cache.pool().is_idle(page));
    BlockTable second;
    fill(second, cache, sequence);
    CHECK(second.page(0) != page);
    CHECK(cache.pool().idle() == 0 && cache.pool().references(page) == 0);
    CHECK(cache.index().pages() == std::vector<PageId>{second.page(0)});
}

TEST(a_duplicate_in_use_is_kept_and_held) {
    KvCache cache(8, kPageSize, true);
    const Sequence sequence = sequence_of({1, 2, 3, 4});
    const Sequence longer = sequence_of({1, 2, 3, 4, 5, 6});
    auto first = std::make_unique<BlockTable>();
    auto second = std::make_unique<BlockTable>();
    fill(*first, cache, sequence);
    fill(*second, cache, longer);
    CHECK(second->alias_pages() == (std::vector<PageId>{first->page(0), first->page(1)}));
    const PageId ancestor = first->page(0);
    first.reset();
    CHECK(!cache.pool().is_idle(ancestor));  // a block below it is held
    second.reset();
    CHECK(cache.pool().free() + cache.pool().idle() == 8);
    CHECK(cache.pool().idle() == 3);
    for (int i = 0; i < 8; ++i) {
        CHECK(cache.allocate().has_value());  // evicts leaves first, or the invariant stops the process
    }
}

TEST(the_longest_idle_leaf_goes_first) {
    KvCache cache(6, kPageSize, true);
    const Sequence old = sequence_of({1, 2, 3, 4, 5, 6});
    const Sequence recent = sequence_of({9, 9, 8, 8, 7, 7});
    std::vector<PageId> pages;
    for (const Sequence* sequence : {&old, &recent}) {
        BlockTable table;
        fill(table, cache, *sequence);
        for (int block = 0; block < 3; ++block) {
            pages.push_back(table.page(block));
        }
    }
    std::vector<PageId> evicted;
    std::vector<WritablePage> held;
    for (int i = 0; i < 6; ++i) {
        held.push_back(std::move(*cache.allocate()));
        evicted.push_back(held.back().id());
    }
    CHECK(evicted == (std::vector<PageId>{pages[2], pages[1], pages[0], pages[5], pages[4], pages[3]}));
}

TEST(tokens_end_a_sequence_by_stop_and_by_length) {
    Sequence sequence({1, 2, 3}, 3, {7}, kPageSize);
    CHECK(sequence.computable() == 5);
    CHECK(sequence.append(4) == Verdict::go_on);
    CHECK(sequence.append(5) == Verdict::go_on);
    CHECK(sequence.append(6) == Verdict::length);
    Sequence stopped({1}, 3, {7}, kPageSize);
    CHECK(stopped.append(7) == Verdict::stop);
}

TEST(digests_do_not_depend_on_when_tokens_arrived) {
    Sequence grown({1}, 9, {}, kPageSize);
    for (const Token token : {2, 3, 4, 5}) {
        (void)grown.append(token);
    }
    const Sequence whole = sequence_of({1, 2, 3, 4, 5});
    CHECK(grown.key(0, -1).digest == whole.key(0, -1).digest &&
          grown.key(1, 0).digest == whole.key(1, 0).digest);
}

}  // namespace
