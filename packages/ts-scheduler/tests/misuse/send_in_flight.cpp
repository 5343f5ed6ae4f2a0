// A step may still write the last page: nothing is sent before it has settled.
// expect: no matching function for call to .*on\(.*InFlight<.*Send
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(InFlight<Decoding, 1> in_flight, Decoding resting) {
#ifdef MISUSE
    (void)resting;
    return on(std::move(in_flight), Send{});
#else
    (void)in_flight;
    return on(std::move(resting), Send{});
#endif
}
