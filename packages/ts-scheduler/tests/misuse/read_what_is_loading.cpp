// A page that is on its way from the host is a ticket's until the transfer has ended: there is no way to its reader.
// expect: no matching function for call to .*BlockTable::append
#include "transfer/arrival.h"

using namespace ts::scheduler;

void run(Arrival arrival, const TransferProof& proof, BlockTable& blocks) {
#ifdef MISUSE
    (void)proof;
    blocks.append(std::move(arrival));
#else
    std::move(arrival).end(proof, blocks);
#endif
}
