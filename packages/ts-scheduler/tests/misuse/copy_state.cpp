// A state owns what it holds: there is one of it.
// expect: use of deleted function .*variant
#include "request/dispatch.h"

using namespace ts::scheduler;

State run(State& state) {
#ifdef MISUSE
    return State(state);
#else
    return State(std::move(state));
#endif
}
