// A slot in flight is not taken again.
// expect: no matching function for call to .*on\(.*Draining<1>.*Admit
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Draining<1> wrong, Preempted right, Admit event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
