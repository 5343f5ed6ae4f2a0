// A page that was allocated is not dropped by accident.
// expect: ignoring return value of .*nodiscard|nodiscard
#include "cache/kv_cache.h"

using namespace ts::scheduler;

void run(PagePool& pool) {
#ifdef MISUSE
    pool.allocate();
#else
    const auto page = pool.allocate();
#endif
}
