// Only the prefix index says which pages can be found.
// expect: Pool<Memory>::list\(.*\).* is private within this context
#include "cache/kv_cache.h"

using namespace ts::scheduler;

void run(PagePool& pool, PrefixIndex& index, const BlockKey& key, const SharedPage& page) {
#ifdef MISUSE
    (void)index;
    (void)key;
    pool.list(page.id(), Retention::once);
#else
    (void)pool;
    (void)index.publish(key, page, Retention::once);
#endif
}
