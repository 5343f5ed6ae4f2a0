// A client is told of the end once.
// expect: no matching function for call to .*on\(.*Draining<2>.*Abort
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Draining<2> wrong, Yielding<2> right, Abort event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
