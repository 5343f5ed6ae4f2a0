// The prompt's pages are not there yet.
// expect: no matching function for call to .*on\(.*LoadingFromHost.*PlanChunk
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run(LoadingFromHost loading, Prefilling prefilling, PlanChunk event) {
#ifdef MISUSE
    (void)prefilling;
    return on(std::move(loading), event);
#else
    (void)loading;
    return on(std::move(prefilling), event);
#endif
}
