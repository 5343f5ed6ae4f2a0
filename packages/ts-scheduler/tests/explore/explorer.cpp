// Visits every state that a small scheduler can reach, under every order of submitting, planning, settling
// with every kind of token, and aborting; and checks in each of them what must always hold. Handles cannot be
// copied, so a state is reached by replaying the actions that lead to it.
//
//     explorer [SECONDS] [nightly] [NAME]      only scenarios whose name has NAME in it; stops with code 2
//     when the time is up before all states have been visited

#include <cstring>
#include <functional>

#include "scenarios.h"

namespace {

using namespace explore;
using Clock = std::chrono::steady_clock;

// How a state is reached: the state before it, and what happens there.
struct Visited {
    std::uint32_t before;
    Action action;
};

World replay(const Scenario& scenario, const std::vector<Visited>& visited, std::size_t state) {
    std::vector<Action> actions;
    for (; state != 0; state = visited[state].before) {
        actions.push_back(visited[state].action);
    }
    World world(scenario);
    for (auto action = actions.rbegin(); action != actions.rend(); ++action) {
        world.repeat(*action, true);
    }
    return world;
}

// 128 bits of a state's description: a collision would hide a state, and is not to be expected.
std::pair<std::size_t, std::size_t> digest_of(const std::string& key) {
    return {std::hash<std::string>{}(key), std::hash<std::string>{}(key + '!')};
}

// Breadth first, so that a failure comes with a shortest history. The states visited, or nothing when the
// time is up.
std::optional<std::size_t> explore_all(const Scenario& scenario, Clock::time_point deadline) {
    std::set<std::pair<std::size_t, std::size_t>> seen;
    std::vector<Visited> visited{{0, {Kind::submit}}};
    std::size_t transitions = 0;
    std::int64_t preemptions = 0;
    std::set<std::string_view> states;
    std::size_t next = 0;
    for (; next < visited.size() && Clock::now() < deadline; ++next) {
        for (const Action action : replay(scenario, visited, next).actions()) {
            World world = replay(scenario, visited, next);
            ++transitions;
            try {
                world.act(action);
                if (!seen.insert(digest_of(world.key())).second) {
                    continue;
                }
                visited.push_back({static_cast<std::uint32_t>(next), action});
                world.add_states(states);
                world.finish();
                preemptions += world.preemptions();
            } catch (const std::exception& error) {
                std::printf("FAILED  %s after %s: %s\n", scenario.name, world.history().c_str(),
                            error.what());
                std::exit(1);
            }
        }
    }
    const bool complete = next == visited.size();
    if (complete && scenario.preempts != (preemptions > 0)) {
        std::printf("FAILED  %s: %lld preemptions\n", scenario.name, static_cast<long long>(preemptions));
        std::exit(1);
    }
    for (const std::string_view state : scenario.must_see) {
        if (complete && !states.contains(state)) {
            std::printf("FAILED  %s: %s never occurs\n", scenario.name, std::string(state).c_str());
            std::exit(1);
        }
    }
    std::printf("%s  %s: %zu states, %zu transitions\n", complete ? "all   " : "PARTLY", scenario.name,
                seen.size(), transitions);
    (void)std::fflush(stdout);
    return complete ? std::optional(seen.size()) : std::nullopt;
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 3600.0;
    const bool nightly = argc > 2 && std::strcmp(argv[2], "nightly") == 0;
    const char* name = argc > 3 ? argv[3] : "";
    const auto deadline =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    std::size_t states = 0;
    bool complete = true;
    for (const Scenario& scenario : nightly ? nightly_scenarios() : scenarios()) {
        if (std::strstr(scenario.name, name) == nullptr) {
            continue;
        }
        const auto visited = explore_all(scenario, deadline);
        complete = complete && visited.has_value();
        states += visited.value_or(0);
    }
    std::printf("%zu states\n", states);
    return complete ? 0 : 2;
}
