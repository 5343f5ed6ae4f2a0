// What has ended does not end again.
// expect: no matching function for call to .*on\(.*Finished.*Abort
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(Finished wrong, Queued right, Abort event) {
#ifdef MISUSE
    (void)right;
    return on(std::move(wrong), std::move(event));
#else
    (void)wrong;
    return on(std::move(right), std::move(event));
#endif
}
