// A proof lasts as long as its step settles.
// expect: use of deleted function .*SettleProof::SettleProof\(const
#include "cache/kv_cache.h"

using namespace ts::scheduler;

SharedPage run(WritablePage page, const SettleProof& proof) {
#ifdef MISUSE
    static const SettleProof kept = proof;
    return std::move(page).seal(kept);
#else
    return std::move(page).seal(proof);
#endif
}
