// A peer reads the pages: there is no release.
// expect: has no member named .release
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(SendingKv sending, Decoding resting) {
#ifdef MISUSE
    (void)resting;
    return std::move(sending).release(FinishReason::stop);
#else
    (void)sending;
    return std::move(resting).release(FinishReason::stop);
#endif
}
