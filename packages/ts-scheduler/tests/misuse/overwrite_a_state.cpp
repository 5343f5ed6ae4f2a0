// A state goes by a transition alone: what it holds cannot be dropped by putting another in its place.
// expect: operator=.*is inaccessible within this context
#include "request/dispatch.h"

using namespace ts::scheduler;

void run(State& state) {
#ifdef MISUSE
    state = Finished{FinishReason::abort};
#else
    (void)apply(state, Abort{});
#endif
}
