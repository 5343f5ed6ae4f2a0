// No step writes to the host: only the end of a transfer makes a host page readable.
// expect: no matching function for call to .*Writable<ts::scheduler::Host>::seal
#include "cache/page.h"

using namespace ts::scheduler;

Shared<Host> run(Writable<Host> page, const SettleProof& step, const TransferProof& transfer) {
#ifdef MISUSE
    (void)transfer;
    return std::move(page).seal(step);
#else
    (void)step;
    return std::move(page).seal(transfer);
#endif
}
