// A waiting request has no step to settle.
// expect: no matching function for call to .*on\(.*Queued.*StepSettled
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Queued wrong, Draining<1> right, StepSettled event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
