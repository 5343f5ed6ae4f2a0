// Each page has one pool.
// expect: use of deleted function .*Pool<Memory>::Pool\(const
#include "cache/kv_cache.h"

using namespace ts::scheduler;

const PagePool& run(const PagePool& pool) {
#ifdef MISUSE
    static const PagePool other = pool;
    return other;
#else
    return pool;
#endif
}
