// A step that has settled says nothing of a transfer.
// expect: cannot convert .*SettleProof.* to .*TransferProof
#include "transfer/arrival.h"

using namespace ts::scheduler;

void run(Arrival arrival, const TransferProof& transfer, const SettleProof& step, BlockTable& blocks) {
#ifdef MISUSE
    (void)transfer;
    std::move(arrival).end(step, blocks);
#else
    (void)step;
    std::move(arrival).end(transfer, blocks);
#endif
}
