// Only sealing makes the first shared page.
// expect: Shared<Memory>::Shared\(.*\).* is private within this context
#include "cache/kv_cache.h"

using namespace ts::scheduler;

SharedPage run(PagePool& pool, WritablePage page, const SettleProof& proof) {
#ifdef MISUSE
    (void)page;
    (void)proof;
    return SharedPage(pool, 0);
#else
    (void)pool;
    return std::move(page).seal(proof);
#endif
}
