// A state is shared once it is sealed: until then its request goes on writing it.
// expect: has no member named .share
#include "cache/kv_cache.h"

using namespace ts::scheduler;

auto run(Writable<RunningState> working, const Shared<RunningState>& checkpoint) {
#ifdef MISUSE
    (void)checkpoint;
    return working.share();
#else
    (void)working;
    return checkpoint.share();
#endif
}
