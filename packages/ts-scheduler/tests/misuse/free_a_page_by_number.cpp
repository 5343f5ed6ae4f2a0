// A page comes back when its handle dies, and by no number.
// expect: dereference\(.*\).* is private within this context
#include "cache/kv_cache.h"

using namespace ts::scheduler;

void run(PagePool& pool, WritablePage page) {
#ifdef MISUSE
    pool.dereference(page.id());
#else
    (void)pool;
    const WritablePage last = std::move(page);
#endif
}
