// A peer writes the pages: they can be given up only when it has ended.
// expect: no matching function for call to .*on\(.*ReceivingKv.*Preempt
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(ReceivingKv receiving) {
#ifdef MISUSE
    return on(std::move(receiving), Preempt{});
#else
    return on(std::move(receiving), Yield{});
#endif
}
