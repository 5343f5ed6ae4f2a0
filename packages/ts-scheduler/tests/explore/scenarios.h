#pragma once

#include "world.h"

namespace explore {

inline Config small(int pages, int chunk, int depth, bool reuse) {
    return {.page_size = 2,
            .num_pages = pages,
            .max_num_seqs = 3,
            .max_model_len = 12,
            .vocab_size = 10,
            .chunk_tokens = chunk,
            .max_queued = 5,
            .prefix_caching = reuse,
            .depth = depth,
            .tool_wait_steps = 2,
            .new_prompt_wait_steps = 3,
            .growth_room = 0};
}

inline Config with_host(Config config, int host_pages) {
    config.host_pages = host_pages;
    config.write_back_pages = config.num_pages;
    return config;
}

// Sessions whose blocks go to the host and come back, and requests that change machines.
inline std::vector<Scenario> transfer_scenarios() {
    const Submission first{1, {1, 2, 3, 4}, 2, {kStop}, 0, 0, true};
    const Submission other{2, {5, 5, 5, 5, 5}, 2, {kStop}, 0, 0, true};
    const Submission next_turn{3, {1, 2, 3, 4, 1, 1}, 2, {kStop}, 0, 0, true};
    const Submission growing{2, {5}, 5, {kStop}, 0, 0, true};
    Submission sent{1, {1, 2, 3}, 3, {kStop}};
    sent.send = true;
    Submission received{2, {1, 2, 3, 1}, 3, {kStop}};
    received.receive = true;
    Submission behind = received;
    behind.id = 3;
    return {
        {"a session that comes back from the host",
         false,
         true,
         with_host(small(4, 8, 2, true), 3),
         {first, other, next_turn},
         {"LoadingFromHost", "DrainingArrival"}},
        {"a session that comes back beside one that grows",
         true,
         false,
         with_host(small(5, 8, 2, true), 4),
         {first, other, next_turn, {4, {6}, 5, {kStop}, 1}},
         {"LoadingFromHost", "YieldingArrival"}},
        {"a request that is sent",
         false,
         true,
         small(4, 2, 2, true),
         {sent, {2, {1, 2, 3, 4}, 2, {kStop}}},
         {"SendingKv"}},
        {"one sent, one received",
         true,
         false,
         small(4, 4, 2, true),
         {sent, received, {3, {7}, 6, {kStop}, 1}},
         {"SendingKv", "ReceivingKv", "YieldingArrival", "DrainingArrival"}},
        {"received twice", false, true, small(8, 4, 2, true), {received, behind}, {"ReceivingKv"}},
    };
}

// With groups beside full attention, of the fewest pages that are allowed.
inline Config with(Config config, std::vector<CacheGroup> groups) {
    for (CacheGroup& group : groups) {
        group.num_pages = static_cast<int>(least_pages(config, group));
    }
    config.groups = std::move(groups);
    return config;
}
constexpr CacheGroup window_of(int tokens) { return {.kind = CacheGroup::Kind::window, .window = tokens}; }
constexpr CacheGroup states_every(int blocks) {
    return {.kind = CacheGroup::Kind::state, .checkpoint_blocks = blocks};
}

inline std::vector<Scenario> scenarios() {
    const Submission first{1, {1, 2, 3}, 3, {kStop}};
    const Submission same{2, {1, 2, 3}, 4, {kStop}};
    const Submission longer{2, {1, 2, 3, 1, 1}, 3, {kStop}};
    const Submission third{3, {1, 2, 3, 4}, 3, {kStop}};
    Submission session = first;
    session.session = true;
    Submission urgent = same;
    urgent.priority = 1;
    Submission stranger = third;
    stranger.user = 7;
    stranger.cache_salt.low = 1;
    Submission stranger_second = stranger;
    stranger_second.id = 2;
    Submission next_turn = longer;
    next_turn.id = 3;
    Config growing = small(6, 4, 2, true);
    growing.growth_room = 0.2;
    const auto drafting = [](Config config, int drafts) {
        config.draft_tokens = drafts;
        return config;
    };
    Submission long_answer = first;
    long_answer.max_tokens = 7;
    Config narrow = small(5, 4, 2, true);  // one after the other, so that there are few pages
    narrow.max_num_seqs = 1;
    narrow.max_model_len = 8;
    std::vector<Scenario> result{
        {"drafts of one, one step at a time",
         false,
         false,
         drafting(small(10, 6, 1, true), 1),
         {long_answer, same}},
        {"drafts of one and room", false, false, drafting(small(10, 6, 2, true), 1), {long_answer, same}},
        {"drafts of one and no room", true, false, drafting(small(5, 6, 2, true), 1), {long_answer, same}},
        {"drafts of two, one step at a time",
         true,
         false,
         drafting(small(6, 6, 1, true), 2),
         {long_answer, same}},
        {"drafts of two and room", false, false, drafting(small(10, 6, 2, true), 2), {long_answer, longer}},
        {"drafts of two and no room", true, false, drafting(small(5, 9, 2, false), 2), {long_answer, same}},
        {"three steps in flight",
         true,
         false,
         small(6, 2, 3, true),
         {long_answer, longer},
         {"InFlight<Prefilling, 2>", "InFlight<Decoding, 3>", "Yielding<2>", "Draining<3>"}},
        {"one request, in chunks", false, false, small(4, 2, 2, true), {first}},
        {"two with one prefix and room", false, false, small(8, 3, 2, true), {first, same}},
        {"two with one prefix and no room", true, false, small(4, 3, 2, true), {first, same}},
        {"two without reuse and no room", true, false, small(5, 8, 2, false), {first, same}},
        {"the next turn, and little room", true, false, small(6, 8, 2, true), {first, longer}},
        {"three, one step at a time", true, false, small(5, 8, 1, true), {first, same, third}},
        {"three with room", false, false, small(12, 8, 2, true), {first, same, third}},
        {"three and little room", true, false, small(6, 4, 2, true), {first, same, third}},
        {"three and no room", true, false, small(5, 8, 2, true), {first, same, third}},
        {"a session, a priority, a stranger", true, false, small(5, 8, 2, true), {session, urgent, stranger}},
        {"a session, its next turn, growth room",
         true,
         false,
         growing,
         {session, stranger_second, next_turn}},
        {"drafts, a window and states",
         true,
         false,
         with(drafting(small(5, 4, 2, true), 1), {window_of(3), states_every(1)}),
         {first, third}},
        {"a window, one step at a time",
         true,
         false,
         with(small(5, 4, 1, true), {window_of(3)}),
         {first, same, third}},
        {"a window, and no room", true, false, with(small(6, 4, 2, true), {window_of(3)}), {longer, third}},
        {"a window without reuse", true, false, with(small(5, 8, 2, false), {window_of(4)}), {first, same}},
        {"states, and little room",
         true,
         false,
         with(small(6, 4, 2, true), {states_every(1)}),
         {longer, third}},
        {"a window and states, and room",
         false,
         false,
         with(small(12, 4, 2, true), {window_of(4), states_every(2)}),
         {longer, third}},
        {"a window and states, and no room",
         true,
         false,
         with(small(5, 8, 2, true), {states_every(2), window_of(3)}),
         {first, third}},
        {"a window and states, and pages for one",
         false,
         false,
         with(narrow, {window_of(3), states_every(1)}),
         {session, stranger_second, next_turn}},
    };
    std::ranges::move(transfer_scenarios(), std::back_inserter(result));
    return result;
}

// What takes minutes: three requests, failures, and pages from just enough to plenty.
inline std::vector<Scenario> nightly_scenarios() {
    const Submission first{1, {1, 2, 3}, 4, {kStop}};
    const Submission same{2, {1, 2, 3}, 3, {kStop}};
    const Submission longer{2, {1, 2, 3, 1, 1}, 3, {kStop}};
    const Submission third{3, {1, 2, 3, 4}, 4, {kStop}};
    Submission session = first;
    session.session = true;
    Submission stranger = third;
    stranger.user = 7;
    stranger.priority = 1;
    Config growing = small(6, 4, 2, true);
    growing.growth_room = 0.2;
    const Submission talk{1, {1, 2, 3, 4}, 2, {kStop}, 0, 0, true};
    const Submission its_other_turn{4, {1, 2, 3, 4, 2, 1}, 2, {kStop}, 0, 0, true};
    const Submission other_session{2, {5, 5, 5, 5, 5}, 2, {kStop}, 0, 0, true};
    const Submission its_next_turn{3, {1, 2, 3, 4, 1, 1}, 2, {kStop}, 0, 0, true};
    Submission sent = first;
    sent.send = true;
    Submission received = same;
    received.receive = true;
    Submission fourth = longer;
    fourth.id = 4;
    fourth.max_tokens = 4;
    Submission patient = session;
    patient.max_tokens = 5;
    Submission fifth = third;
    fifth.id = 5;
    Submission another = stranger;
    another.id = 5;
    const auto drafting = [](int drafts, int pages) {
        Config config = small(pages, 9, 2, true);
        config.draft_tokens = drafts;
        return config;
    };
    return {
        {"failures, one step at a time", true, true, small(5, 4, 1, true), {first, same, third}},
        {"failures, three steps in flight", true, true, small(5, 4, 3, true), {first, same, third}},
        {"failures, a host tier and little room",
         false,
         true,
         with_host(small(4, 8, 2, true), 4),
         {talk, other_session, its_next_turn, its_other_turn},
         {"LoadingFromHost", "DrainingArrival"}},
        {"failures, one sent, one received",
         true,
         true,
         small(5, 4, 2, true),
         {sent, received, stranger},
         {"SendingKv", "ReceivingKv", "YieldingArrival", "DrainingArrival"}},
        {"failures, states, three steps in flight",
         true,
         true,
         with(small(5, 4, 3, true), {states_every(1), window_of(3)}),
         {first, same}},
        {"failures and no room", true, true, small(5, 4, 2, true), {first, same, third}},
        {"failures and little room", true, true, small(6, 3, 2, true), {session, longer, stranger}},
        {"failures, growth room", true, true, growing, {session, longer, third}},
        {"failures without reuse", true, true, small(6, 4, 2, false), {first, longer, stranger}},
        {"four with failures and room", false, true, small(16, 4, 2, true), {patient, same, third, fourth}},
        {"four with failures and no room",
         true,
         true,
         small(6, 4, 2, true),
         {patient, same, stranger, fourth}},
        {"five with failures and room",
         false,
         true,
         small(20, 4, 2, true),
         {patient, same, third, fourth, fifth}},
        {"five with failures and no room",
         true,
         true,
         small(6, 4, 2, true),
         {patient, same, third, fourth, another}},
        {"five with failures and little room",
         true,
         true,
         small(8, 3, 2, true),
         {patient, same, third, fourth, another}},
        {"failures and room", false, true, small(12, 3, 2, true), {session, longer, stranger}},
        {"failures, drafts of one", true, true, drafting(1, 6), {patient, longer, stranger}},
        {"failures, drafts of two", true, true, drafting(2, 7), {patient, same, third}},
        {"failures, a window and no room",
         true,
         true,
         with(small(6, 4, 2, true), {window_of(3)}),
         {session, longer, third}},
        {"failures, states and no room",
         true,
         true,
         with(small(6, 4, 2, true), {states_every(1)}),
         {session, longer, third}},
        {"failures, a window and states",
         true,
         true,
         with(small(7, 3, 2, true), {window_of(4), states_every(2)}),
         {session, longer, stranger}},
    };
}

}  // namespace explore
