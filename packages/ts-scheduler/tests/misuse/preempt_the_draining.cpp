// Pages of a step in flight are not taken for somebody else.
// expect: no matching function for call to .*on\(.*Draining<1>.*Preempt
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Draining<1> wrong, Decoding right, Preempt event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
