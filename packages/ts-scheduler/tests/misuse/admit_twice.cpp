// An admitted request holds its lease already.
// expect: no matching function for call to .*on\(.*Prefilling.*Admit
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Prefilling wrong, Queued right, Admit event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
