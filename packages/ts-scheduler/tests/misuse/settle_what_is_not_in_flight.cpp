// A result belongs to a step in flight.
// expect: no matching function for call to .*on\(.*Decoding.*StepSettled
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Decoding wrong, InFlight<Decoding, 1> right, StepSettled event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
