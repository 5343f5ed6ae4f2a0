// What a block is worth is for the prefix index to say.
// expect: Pool<Memory>::touch\(.*\).* is private within this context
#include "cache/kv_cache.h"

using namespace ts::scheduler;

SharedPage run(PagePool& pool, PrefixIndex& index, PrefixIndex::Node node) {
#ifdef MISUSE
    pool.touch(0, Retention::shared);
#else
    (void)pool;
#endif
    return index.share(node, Retention::session);
}
