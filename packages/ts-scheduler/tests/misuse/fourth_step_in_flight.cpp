// At most three steps of a request are in flight.
// expect: no matching function for call to .*on\(.*InFlight<.*Decoding, 3>.*PlanDecode
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(InFlight<Decoding, 2> two, InFlight<Decoding, 3> three, PlanDecode event) {
#ifdef MISUSE
    (void)two;
    return on(std::move(three), std::move(event));
#else
    (void)three;
    return on(std::move(two), std::move(event));
#endif
}
