#include <algorithm>
#include <string>

#include "request/transitions.h"
#include "ts/scheduler/scheduler.h"

namespace ts::scheduler {
namespace {

// A mermaid identifier: letters, digits, underscores.
std::string identifier(std::string_view name) {
    std::string result;
    for (const char c : name) {
        if (c == '<' || c == ',') {
            result += '_';
        } else if (c != '>' && c != ' ') {
            result += c;
        }
    }
    return result;
}

std::string label(std::string_view name) {
    std::string result;
    for (const char c : name) {
        if (c == '<') {
            result += "&lt;";
        } else if (c == '>') {
            result += "&gt;";
        } else {
            result += c;
        }
    }
    return result;
}

template <class S>
void add_state(std::string& out) {
    if (identifier(S::kName) != S::kName) {
        out += "    state \"" + label(S::kName) + "\" as " + identifier(S::kName) + "\n";
    }
}

template <class... S>
void add_states(std::string& out, Types<S...> /*states*/) {
    (add_state<S>(out), ...);
}

template <class From, class Event, class... To>
void add_rule(std::string& out, std::type_identity<Rule<From, Event, To...>> /*rule*/) {
    ((out += "    " + identifier(From::kName) + " --> " + identifier(To::kName) + " : " +
             std::string(Event::kName) + "\n"),
     ...);
}

template <class... Rules>
void add_rules(std::string& out, const Table<Rules...>& /*table*/) {
    (add_rule(out, std::type_identity<Rules>{}), ...);
}

template <class S, class From, class Event, class... To>
void add_event(std::string& out, std::type_identity<Rule<From, Event, To...>> /*rule*/) {
    if constexpr (std::is_same_v<S, From>) {
        out += out.ends_with("| ") ? "" : "; ";
        out += std::string(Event::kName) + " → ";
        std::string_view separator;
        (((out += separator) += To::kName, separator = " or "), ...);
    }
}

template <class S, class... Rules>
void add_row(std::string& out, const Table<Rules...>& /*table*/) {
    ((out += "| `") += S::kName) += "` | ";
    (add_event<S>(out, std::type_identity<Rules>{}), ...);
    out += " |\n";
}

template <class... S>
void add_rows(std::string& out, Types<S...> /*states*/) {
    (add_row<S>(out, kTransitions), ...);
}

}  // namespace

std::string transition_table() {
    std::string out = "| state | event → next state |\n|---|---|\n";
    add_rows(out, States{});
    return out;
}

std::string transition_diagram() {
    std::string out = "stateDiagram-v2\n";
    add_states(out, States{});
    out += "    [*] --> Queued : Submit\n";
    add_rules(out, kTransitions);
    out += "    Finished --> [*]\n";
    return out;
}

}  // namespace ts::scheduler
