#include <atomic>
#include <thread>

#include "check.h"
#include "ts/scheduler/scheduler.h"
#include "ts/scheduler/wire.h"

namespace {

using namespace ts::scheduler;

// A scheduler is used by one thread at a time; schedulers share nothing. The thread sanitizer watches.
TEST(schedulers_in_different_threads_share_nothing) {
    std::atomic<int> finished = 0;
    const auto serve = [&](int seed) {
        Scheduler scheduler({.page_size = 2,
                             .num_pages = 24,
                             .max_num_seqs = 4,
                             .max_model_len = 32,
                             .vocab_size = 10,
                             .chunk_tokens = 8,
                             .max_queued = 40,
                             .min_tps = 100});
        for (RequestId id = 0; id < 30; ++id) {
            Submission asked;
            asked.id = id;
            asked.prompt = {seed, 1, 2, static_cast<Token>(id % 5)};
            asked.max_tokens = 6;
            CHECK(!scheduler.submit(asked));
        }
        std::string message;
        while (const StepPlan* plan = scheduler.plan()) {
            std::vector<Token> sampled;
            for (const Row& row : plan->rows) {
                sampled.insert(sampled.end(), (row.flags & kRowSample) != 0 ? 1U : 0U, 3);
            }
            const auto settled = scheduler.settle(plan->step, sampled, std::chrono::milliseconds(1));
            encode_outputs(std::get<std::span<const Output>>(settled), message);
        }
        finished += scheduler.idle() ? 1 : 0;
    };
    std::vector<std::thread> threads;
    for (int seed = 0; seed < 4; ++seed) {
        threads.emplace_back(serve, seed);
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    CHECK(finished == 4);
}

}  // namespace
