// A request that gives way already is not asked again.
// expect: no matching function for call to .*on\(.*Yielding<1>.*Yield
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Yielding<1> wrong, InFlight<Prefilling, 1> right, Yield event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
