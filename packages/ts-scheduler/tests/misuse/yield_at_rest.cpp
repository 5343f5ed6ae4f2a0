// Only what is in flight has to wait to give way.
// expect: no matching function for call to .*on\(.*Decoding.*Yield
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Decoding wrong, InFlight<Decoding, 1> right, Yield event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
