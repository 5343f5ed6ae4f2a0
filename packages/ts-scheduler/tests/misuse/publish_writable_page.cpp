// The prefix index takes sealed pages alone.
// expect: cannot convert .*WritablePage.* to .*const .*SharedPage|invalid initialization of reference of type .*SharedPage
#include "cache/kv_cache.h"

using namespace ts::scheduler;

void run(PrefixIndex& index, const BlockKey& key, const WritablePage& open, const SharedPage& sealed) {
#ifdef MISUSE
    (void)sealed;
    (void)index.publish(key, open, Retention::once);
#else
    (void)open;
    (void)index.publish(key, sealed, Retention::once);
#endif
}
