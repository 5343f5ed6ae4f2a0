// Throws random events at small schedulers, most of them wrong: duplicate and unknown ids, empty and endless
// prompts, results twice, out of order, with too many or impossible tokens, negative sizes. Everything has to
// be taken or refused by type; what is refused changes nothing; in the end every page comes back.
//
//     fuzz [EVENTS] [SEED]

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "ts/scheduler/scheduler.h"
#include "ts/scheduler/wire.h"

namespace {

using namespace ts::scheduler;

void require(bool holds, const char* what) {
    if (!holds) {
        std::printf("FAILED  %s\n", what);
        std::exit(1);
    }
}

struct StepOut {
    StepId step;
    std::vector<Position> most;  // tokens of each sampling row
};

class Fuzz {
 public:
    explicit Fuzz(std::uint64_t seed) : random_(seed), config_(with_groups(config())), scheduler_(config_) {}

    void event() {
        switch (below(12)) {
            case 10:
            case 11:
                end_transfer();
                break;
            case 0:
            case 1:
            case 2:
                submit();
                break;
            case 3:
            case 4:
            case 5:
                plan();
                break;
            case 6:
            case 7:
                settle_well();
                break;
            case 8:
                settle_badly();
                break;
            default:
                (void)scheduler_.abort(identity());
        }
    }

    void finish() {
        for (int i = 0; i < 100'000 && !(scheduler_.idle() && under_way_.empty()); ++i) {
            plan();
            require(!flight_.empty() || !under_way_.empty(), "there is work and nothing in flight");
            settle_well();
            end_transfer();
        }
        require(scheduler_.idle(), "every request ends");
        const Snapshot end = scheduler_.snapshot();
        require(end.free.size() + end.idle.size() == end.references.size(), "every page comes back");
        const auto held = std::ranges::count_if(end.host_references, [](int count) { return count > 0; });
        require(held == std::ssize(end.host_order), "every host page comes back");
        for (const GroupSnapshot& group : end.groups) {
            require(group.free.size() + group.idle.size() == group.references.size(),
                    "every page of a group comes back");
        }
    }

 private:
    std::int64_t below(std::int64_t limit) {
        return std::uniform_int_distribution<std::int64_t>(0, limit - 1)(random_);
    }
    bool seldom() { return below(30) == 0; }
    std::int64_t extreme() {
        constexpr std::int64_t kValues[]{0, -1, 1, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, 1LL << 40};
        return kValues[below(std::size(kValues))];
    }
    RequestId identity() { return seldom() ? extreme() : below(12); }

    Config config() {
        const bool reuse = below(4) != 0;
        const int drafts = static_cast<int>(below(2) * below(6));
        return {.page_size = static_cast<int>(1 + below(4)),
                .num_pages = static_cast<int>(1 + below(40)),
                .max_num_seqs = static_cast<int>(1 + below(6)),
                .max_model_len = static_cast<int>(1 + below(60)),
                .vocab_size = 8,
                .chunk_tokens = static_cast<int>(1 + drafts + below(30)),
                .max_queued = static_cast<int>(1 + below(6)),
                .prefix_caching = reuse,
                .depth = static_cast<int>(1 + below(3)),
                .max_queued_tokens = below(2) * 40,
                .max_queued_per_user = static_cast<int>(below(2) * 3),
                .priority_tokens = static_cast<int>(below(30)),
                .tool_wait_steps = static_cast<int>(below(5)),
                .new_prompt_wait_steps = static_cast<int>(below(8)),
                .growth_room = static_cast<double>(below(10)) / 10,
                .host_pages = static_cast<int>(reuse ? below(2) * below(30) : 0),
                .write_back_pages = static_cast<int>(1 + below(20)),
                .min_tps = static_cast<double>(below(2) * 50),
                .draft_tokens = drafts};
    }

    // Up to three groups, often of the fewest pages that are allowed: with those none may ever run out.
    Config with_groups(Config config) {
        for (auto count = std::max<std::int64_t>(below(6) - 2, 0); count > 0; --count) {
            config.host_pages = 0;  // there are no copies of windows and states
            CacheGroup group;
            group.kind = below(2) != 0 ? CacheGroup::Kind::window : CacheGroup::Kind::state;
            group.window = static_cast<int>(1 + below(20));
            group.checkpoint_blocks = static_cast<int>(1 + below(4));
            group.num_pages = static_cast<int>(least_pages(config, group));
            require(!refused(config, group), "the fewest pages are allowed");
            --group.num_pages;
            require(refused(config, group), "one page fewer is not");
            group.num_pages += static_cast<int>(1 + below(2) * below(20));
            config.groups.push_back(group);
        }
        return config;
    }
    static bool refused(Config config, const CacheGroup& group) {
        config.groups = {group};
        return problem_with(config).has_value();
    }

    void submit() {
        Submission asked;
        asked.id = identity();
        const std::int64_t length = seldom() ? 200 : below(30);
        for (std::int64_t i = 0; i < length; ++i) {
            asked.prompt.push_back(static_cast<Token>(seldom() && seldom() ? extreme() : below(2)));
        }
        asked.max_tokens = seldom() ? extreme() : 1 + below(12);
        asked.stop_tokens = {seldom() ? extreme() : below(8)};
        asked.priority = static_cast<int>(seldom() ? extreme() : below(5) - 2);
        asked.user = seldom() ? extreme() : below(4);
        asked.session = below(3) == 0;
        asked.send = below(10) == 0;
        asked.receive = below(10) == 0;
        asked.cache_salt.low = static_cast<std::uint64_t>(below(2));
        (void)scheduler_.submit(std::move(asked));
    }

    void note_transfers() {
        for (const Transfer& transfer : scheduler_.transfers()) {
            under_way_.push_back(transfer.id);
        }
    }

    void end_transfer() {
        if (seldom()) {
            const TransferId wrong = extreme();
            const bool known = std::ranges::find(under_way_, wrong) != under_way_.end();
            require(known || scheduler_.end_transfer(wrong, true).has_value(), "an unknown end is refused");
        }
        if (under_way_.empty()) {
            return;
        }
        const auto chosen = under_way_.begin() + below(std::ssize(under_way_));
        const TransferId id = *chosen;
        under_way_.erase(chosen);
        require(!scheduler_.end_transfer(id, below(4) != 0), "the end of a transfer is taken");
        require(scheduler_.end_transfer(id, true).has_value(), "it is taken once");
    }

    void plan() {
        const StepPlan* plan = scheduler_.plan();
        note_transfers();
        if (plan == nullptr) {
            return;
        }
        StepOut& step = flight_.emplace_back(StepOut{plan->step, {}});
        for (const Row& row : plan->rows) {
            if ((row.flags & kRowSample) != 0) {
                step.most.push_back((row.flags & kRowTokenOnDevice) != 0 ? row.count : 1);
            }
        }
    }

    // How many tokens each row has: any number that it can have.
    std::vector<Position> counts(const StepOut& step) {
        std::vector<Position> result = step.most;
        std::ranges::transform(result, result.begin(),
                               [this](Position most) { return static_cast<Position>(1 + below(most)); });
        return result;
    }

    std::vector<Token> tokens(const std::vector<Position>& counts) {
        std::vector<Token> result;
        for (const Position count : counts) {
            for (Position i = 0; i < count; ++i) {
                result.push_back(count == 1 && seldom() ? kUnusable : static_cast<Token>(below(8)));
            }
        }
        return result;
    }

    // Counts that no worker can have come to.
    std::vector<Position> impossible(std::vector<Position> counts) {
        if (counts.empty() || below(3) == 0) {
            counts.push_back(1);
        } else {
            Position& count = counts[static_cast<std::size_t>(below(std::ssize(counts)))];
            count = static_cast<Position>(below(2) != 0 ? extreme() : count + 40);
            count = count == 1 ? -1 : count;
        }
        return counts;
    }

    void settle_well() {
        if (flight_.empty()) {
            return;
        }
        const StepOut step = flight_.front();
        flight_.pop_front();
        std::vector<Position> accepted = counts(step);
        std::vector<Token> sampled = tokens(accepted);
        if (below(3) == 0) {
            accepted.clear();
            sampled = tokens(std::vector<Position>(step.most.size(), 1));
        }
        const auto settled =
            scheduler_.settle(step.step, sampled, std::chrono::nanoseconds(below(1 << 24)), accepted);
        require(std::holds_alternative<std::span<const Output>>(settled), "a good result is taken");
        encode_outputs(std::get<std::span<const Output>>(settled), message_);
        note_transfers();
    }

    void settle_badly() {
        const Stats before = scheduler_.stats();
        const bool any = !flight_.empty();
        const StepOut step = any ? flight_.front() : StepOut{1, {}};
        std::vector<Position> accepted = counts(step);
        std::vector<Token> sampled = tokens(accepted);
        StepId id = step.step;
        std::int64_t nanoseconds = 5;
        switch (below(5)) {
            case 0:
                id = below(2) != 0 ? extreme() : step.step + (below(2) != 0 ? 1 : -1);
                id = id == step.step ? -7 : id;
                break;
            case 1:
                sampled.push_back(1);
                break;
            case 2:
                if (sampled.empty()) {
                    sampled.push_back(0);
                }
                sampled.back() = below(2) != 0 ? 8 : INT32_MIN;
                break;
            case 3:
                accepted = impossible(std::move(accepted));
                break;
            default:
                nanoseconds = INT64_MIN;
        }
        const auto settled = scheduler_.settle(id, sampled, std::chrono::nanoseconds(nanoseconds), accepted);
        require(std::holds_alternative<SettleError>(settled), "a bad result is refused");
        const Stats after = scheduler_.stats();
        require(before.steps == after.steps && before.pages_used == after.pages_used &&
                    before.decode_tokens == after.decode_tokens && before.preemptions == after.preemptions,
                "what is refused changes nothing");
    }

    std::mt19937_64 random_;
    Config config_;
    Scheduler scheduler_;
    std::deque<StepOut> flight_{};
    std::vector<TransferId> under_way_{};
    std::string message_{};
};

}  // namespace

int main(int argc, char** argv) {
    const std::int64_t events = argc > 1 ? std::atoll(argv[1]) : 100'000;
    const auto seed = static_cast<std::uint64_t>(argc > 2 ? std::atoll(argv[2]) : 1);
    constexpr std::int64_t kEach = 500;
    std::int64_t done = 0;
    for (std::uint64_t round = 0; done < events; ++round) {
        Fuzz fuzz(seed * 1'000'003 + round);
        for (std::int64_t i = 0; i < kEach; ++i) {
            fuzz.event();
        }
        fuzz.finish();
        done += kEach;
    }
    std::printf("%lld events\n", static_cast<long long>(done));
    return 0;
}
