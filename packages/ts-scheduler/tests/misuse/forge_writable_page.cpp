// Only the pool makes writable pages.
// expect: Writable<Memory>::Writable\(.*\).* is private within this context
#include "cache/kv_cache.h"

using namespace ts::scheduler;

std::optional<WritablePage> run(PagePool& pool) {
#ifdef MISUSE
    return WritablePage(pool, 0);
#else
    return pool.allocate();
#endif
}
