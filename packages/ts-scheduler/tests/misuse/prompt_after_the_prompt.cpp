// A request that decodes has no prompt left.
// expect: no matching function for call to .*on\(.*Decoding.*PlanChunk
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Decoding wrong, Prefilling right, PlanChunk event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
