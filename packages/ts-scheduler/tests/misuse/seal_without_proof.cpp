// A page is not sealed before its step has come back.
// expect: no matching function for call to .*Writable<ts::scheduler::Device>::seal\(\)
// .*seal\(\)|too few arguments to function call
#include "cache/kv_cache.h"

using namespace ts::scheduler;

SharedPage run(WritablePage page, const SettleProof& proof) {
#ifdef MISUSE
    (void)proof;
    return std::move(page).seal();
#else
    return std::move(page).seal(proof);
#endif
}
