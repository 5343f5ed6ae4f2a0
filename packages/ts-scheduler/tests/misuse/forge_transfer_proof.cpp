// Only the ledger of transfers knows that one has ended.
// expect: TransferProof::TransferProof\(\).* is private within this context
#include "cache/page.h"

using namespace ts::scheduler;

Shared<Host> run(Writable<Host> page, const TransferProof& proof) {
#ifdef MISUSE
    (void)proof;
    return std::move(page).seal(TransferProof());
#else
    return std::move(page).seal(proof);
#endif
}
