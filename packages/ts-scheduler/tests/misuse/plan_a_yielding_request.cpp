// A request that gives way is planned no further.
// expect: no matching function for call to .*on\(.*Yielding<1>.*PlanDecode
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Yielding<1> wrong, Decoding right, PlanDecode event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
