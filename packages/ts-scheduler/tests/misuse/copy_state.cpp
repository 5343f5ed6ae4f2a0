// What a state owns it owns alone.
// expect: use of deleted function .*State::State\(const
#include "request/dispatch.h"

using namespace ts::scheduler;

void run(const State& state) {
#ifdef MISUSE
    const State same = state;
    (void)same;
#else
    const State& same = state;
    (void)same;
#endif
}
