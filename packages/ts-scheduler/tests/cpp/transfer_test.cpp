#include <algorithm>
#include <map>

#include "check.h"
#include "driving.h"

// Pages that are copied to the host and back, and requests that change machines.
namespace {

using namespace ts::scheduler;

Config config_of(int pages, int host_pages) {
    return {.page_size = 4,
            .num_pages = pages,
            .max_num_seqs = 4,
            .max_model_len = 200,
            .vocab_size = 1000,
            .chunk_tokens = 64,
            .max_queued = 100,
            .growth_room = 0,
            .host_pages = host_pages,
            .write_back_pages = pages};
}

struct Transferring : Runner {
    using Runner::Runner;

    RequestId turn(std::vector<Token> prompt) {
        Submission terms;
        terms.session = true;
        return submit(std::move(prompt), 1, terms);
    }
    void end(bool arrived = true) {
        CHECK(!under_way.empty());
        CHECK(!scheduler.end_transfer(under_way.begin()->first, arrived));
        under_way.erase(under_way.begin());
    }
    void run() {
        while (step() || !under_way.empty()) {
            while (!under_way.empty()) {
                end();
            }
        }
    }
    [[nodiscard]] const Transfer* only(TransferKind kind) const {
        CHECK(under_way.size() == 1);
        return under_way.begin()->second.kind == kind ? &under_way.begin()->second : nullptr;
    }
    [[nodiscard]] std::string_view state(RequestId id) const {
        const Snapshot all = scheduler.snapshot();
        const auto found = std::ranges::find(all.requests, id, &RequestSnapshot::id);
        return found == all.requests.end() ? "gone" : found->state;
    }
};

// A session of three blocks that only the host has.
Transferring with_session_on_host(int pages = 6) {
    Transferring runner(config_of(pages, 8));
    runner.turn(tokens(13, 0));
    runner.run();
    runner.submit(tokens(4 * pages - 3, 100));  // all pages there are
    runner.run();
    return runner;
}

TEST(a_session_that_left_the_device_comes_back_from_the_host) {
    Transferring runner = with_session_on_host();
    const RequestId id = runner.turn(tokens(14, 0));
    CHECK(!runner.step());
    CHECK(runner.state(id) == "LoadingFromHost");
    const Transfer* load = runner.only(TransferKind::load);
    CHECK(load != nullptr && load->request == id && load->tokens == 12 && load->pages.size() == 3);
    CHECK(!runner.step());  // nothing runs on what is not there
    runner.end();
    CHECK(runner.step());
    CHECK(runner.rows.size() == 1 && runner.rows[0].start == 12 && runner.rows[0].count == 2);
    CHECK(runner.last.at(id).cached_tokens == 12);
    const Stats stats = runner.scheduler.stats();
    CHECK(stats.host_hit_tokens == 12 && stats.host_loaded_pages == 3 && stats.prefix_hit_tokens == 12);
}

TEST(what_fails_to_come_from_the_host_is_computed) {
    Transferring runner = with_session_on_host();
    const RequestId id = runner.turn(tokens(14, 0));
    CHECK(!runner.step());
    runner.end(false);
    CHECK(runner.step());
    CHECK(runner.rows.size() == 1 && runner.rows[0].start == 0 && runner.rows[0].count == 14);
    CHECK(runner.last.at(id).cached_tokens == 0 && runner.scheduler.stats().transfers_failed == 1);
}

TEST(a_second_request_waits_for_what_the_first_is_loading) {
    Transferring runner = with_session_on_host(20);
    runner.turn(tokens(14, 0));
    const RequestId second = runner.turn(tokens(15, 0));
    CHECK(!runner.step());
    CHECK(runner.only(TransferKind::load) != nullptr);
    CHECK(runner.state(second) == "Queued");
    runner.run();
    CHECK(runner.last.at(second).cached_tokens == 12);
    CHECK(runner.scheduler.stats().host_loaded_pages == 3);
}

TEST(an_abort_while_loading_gives_the_pages_back_when_the_load_has_ended) {
    Transferring runner = with_session_on_host();
    const RequestId id = runner.turn(tokens(14, 0));
    CHECK(!runner.step());
    const std::int64_t used = runner.scheduler.stats().pages_used;
    CHECK(used == 4);
    CHECK(runner.scheduler.abort(id) && !runner.scheduler.abort(id));
    CHECK(runner.state(id) == "DrainingArrival" && runner.scheduler.stats().pages_used == used);
    runner.end();
    CHECK(runner.scheduler.idle() && runner.scheduler.stats().pages_used == 0);
}

TEST(one_shot_prompts_are_not_copied) {
    Transferring runner(config_of(6, 8));
    for (Token first = 0; first < 500; first += 50) {
        runner.submit(tokens(21, first));
        runner.run();
    }
    CHECK(runner.scheduler.stats().host_stored_pages == 0);
    CHECK(runner.scheduler.stats().prefix_evictions > 0);
}

TEST(a_copy_that_fails_is_forgotten) {
    Transferring runner(config_of(6, 8));
    runner.turn(tokens(13, 0));
    while (runner.step()) {
    }
    const Transfer* store = runner.only(TransferKind::store);
    CHECK(store != nullptr && store->request == 0 && store->pages.size() == 3);
    runner.end(false);
    CHECK(runner.scheduler.snapshot().copies.empty() && runner.scheduler.stats().host_pages_used == 0);
}

TEST(a_page_is_not_evicted_while_it_is_copied) {
    Transferring runner(config_of(6, 8));
    runner.turn(tokens(13, 0));
    while (runner.step()) {
    }
    CHECK(runner.only(TransferKind::store) != nullptr);
    const RequestId large = runner.turn(tokens(21, 100));
    CHECK(!runner.step());
    CHECK(runner.state(large) == "Queued");
    runner.end();
    CHECK(runner.step());
    CHECK(runner.scheduler.snapshot().copies.size() == 3);
}

TEST(a_decode_waits_for_a_page_that_is_being_copied_and_preempts_nobody) {
    Transferring runner(config_of(7, 8));
    runner.turn(tokens(13, 0));
    while (runner.step()) {
    }
    const RequestId growing = runner.submit(tokens(3, 100), 9);
    runner.submit(tokens(3, 200), 9);
    for (int i = 0; i < 6; ++i) {
        (void)runner.step();
    }
    CHECK(runner.only(TransferKind::store) !=
          nullptr);  // three of the seven pages, and four are the requests'
    CHECK(runner.state(growing) == "Decoding" && !runner.step());
    runner.end();
    CHECK(runner.step() && runner.scheduler.stats().preemptions == 0);
}

TEST(who_waits_for_pages_that_are_being_copied_enters_when_that_has_ended) {
    Config config = config_of(8, 8);
    config.tool_wait_steps = 0;
    Transferring runner(config);
    const RequestId running = runner.submit(tokens(1, 100), 12);
    CHECK(runner.step());
    runner.turn(tokens(13, 0));
    CHECK(runner.step() && runner.step());  // its three blocks are idle and being copied
    CHECK(runner.only(TransferKind::store) != nullptr);
    const RequestId waiting = runner.submit(tokens(13, 200));
    CHECK(runner.step() && runner.state(waiting) == "Queued" && runner.step());
    runner.end();
    CHECK(runner.step() && runner.state(waiting) == "gone" && runner.state(running) == "Decoding");
}

TEST(a_decode_that_runs_alone_waits_for_a_transfer_to_end) {
    Transferring runner(config_of(5, 0));
    const RequestId growing = runner.submit(tokens(3, 100), 9);
    CHECK(runner.step());
    Submission terms;
    terms.send = true;
    runner.submit(tokens(9, 0), 2, terms);
    for (int i = 0; i < 6; ++i) {
        (void)runner.step();
    }
    CHECK(runner.only(TransferKind::send) != nullptr);  // three of the five pages, and two are the other's
    CHECK(runner.state(growing) == "Decoding" && !runner.step());
    runner.end();
    CHECK(runner.step() && runner.scheduler.stats().preemptions == 0);
}

TEST(what_a_preempted_request_has_computed_goes_to_the_host_and_comes_back) {
    Transferring runner(config_of(8, 20));
    runner.submit(tokens(9, 0), 17);
    const RequestId preempted = runner.submit(tokens(9, 100), 17);
    while (runner.scheduler.stats().preemptions == 0) {
        CHECK(runner.step());
    }
    runner.run();
    CHECK(runner.state(preempted) == "gone" && runner.last.at(preempted).finish == FinishReason::length);
    const Stats stats = runner.scheduler.stats();
    CHECK(stats.host_loaded_pages > 0 && stats.host_hit_tokens == 0);
    CHECK(stats.prefill_tokens < 9 + 9 + 9);  // the second time it computes what is no whole block
}

TEST(a_full_host_gives_up_what_has_been_there_for_longest) {
    Transferring runner(config_of(6, 5));
    for (const Token first : {0, 100, 200}) {
        runner.turn(tokens(13, first));
        runner.run();
    }
    runner.submit(tokens(21, 300));
    runner.run();
    const RequestId newest = runner.turn(tokens(14, 200));
    runner.run();
    CHECK(runner.last.at(newest).cached_tokens == 12);
    const RequestId oldest = runner.turn(tokens(14, 0));
    runner.run();
    CHECK(runner.last.at(oldest).cached_tokens == 0);
}

TEST(a_sent_request_ends_with_its_first_token_and_keeps_its_pages_until_they_have_been_read) {
    Transferring runner(config_of(6, 0));
    Submission terms;
    terms.send = true;
    const RequestId id = runner.submit(tokens(9, 0), 10, terms);
    CHECK(runner.step());
    CHECK(runner.last.at(id).finish == FinishReason::sent && runner.last.at(id).token == 999);
    const Transfer* send = runner.only(TransferKind::send);
    CHECK(send != nullptr && send->request == id && send->tokens == 9 && send->pages.size() == 3);
    CHECK(runner.state(id) == "SendingKv" && !runner.scheduler.abort(id));
    CHECK(!runner.step() && runner.scheduler.stats().pages_used == 3);
    runner.end();
    CHECK(runner.scheduler.idle() && runner.scheduler.stats().pages_used == 0);
}

TEST(a_received_request_computes_its_last_token_alone) {
    Transferring runner(config_of(6, 0));
    Submission terms;
    terms.receive = true;
    const RequestId id = runner.submit(tokens(10, 0), 1, terms);
    CHECK(!runner.step());
    const Transfer* receive = runner.only(TransferKind::receive);
    CHECK(receive != nullptr && receive->request == id && receive->tokens == 9 && receive->pages.size() == 3);
    runner.end();
    CHECK(runner.step());
    CHECK(runner.rows.size() == 1 && runner.rows[0].start == 9 && runner.rows[0].count == 1);
    const RequestId again = runner.submit(tokens(10, 0));
    CHECK(runner.step() && runner.last.at(again).cached_tokens == 8);  // what arrived is published
}

TEST(a_request_whose_pages_do_not_arrive_computes_its_prompt) {
    Transferring runner(config_of(6, 0));
    Submission terms;
    terms.receive = true;
    runner.submit(tokens(10, 0), 1, terms);
    CHECK(!runner.step());
    runner.end(false);
    CHECK(runner.step());
    CHECK(runner.rows[0].start == 0 && runner.rows[0].count == 10);
}

TEST(the_end_of_a_transfer_is_taken_once) {
    Transferring runner = with_session_on_host();
    CHECK(runner.scheduler.end_transfer(1, true)->code == TransferCode::unknown_transfer);
    CHECK(runner.scheduler.end_transfer(-5, false).has_value());
    runner.turn(tokens(14, 0));
    (void)runner.scheduler.plan();
    CHECK(runner.scheduler.end_transfer(100, true).has_value());
    for (TransferId id = 0; id < 100; ++id) {  // begun, but nobody has been told
        CHECK(runner.scheduler.end_transfer(id, true).has_value());
    }
    runner.run();
    CHECK(runner.scheduler.idle());
}

TEST(transfers_are_configured_and_asked_for_sensibly) {
    Config config = config_of(6, 8);
    config.prefix_caching = false;
    CHECK(problem_with(config)->find("host_pages") == 0);
    config = config_of(6, -1);
    CHECK(problem_with(config)->find("host_pages") == 0);
    config = config_of(6, 8);
    config.write_back_pages = 0;
    CHECK(problem_with(config)->find("write_back_pages") == 0);
    Transferring runner(config_of(6, 0));
    Submission one{1, {1}, 1, {}};
    one.receive = true;
    CHECK(runner.scheduler.submit(one)->code == RejectionCode::invalid);
}

}  // namespace
