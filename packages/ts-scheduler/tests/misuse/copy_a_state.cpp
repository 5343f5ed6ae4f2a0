// A request has its state to itself.
// expect: use of deleted function .*Writable<Memory>::Writable\(const .*\)
#include "cache/kv_cache.h"

using namespace ts::scheduler;

Writable<RunningState> run(Writable<RunningState>& working) {
#ifdef MISUSE
    return working;
#else
    return std::move(working);
#endif
}
