// Nothing is published before its result.
// expect: no matching function for call to .*BlockTable::publish\(
#include "request/dispatch.h"

using namespace ts::scheduler;

void run(BlockTable& table, PrefixIndex& index, const Sequence& sequence, const SettleProof& proof) {
#ifdef MISUSE
    (void)proof;
    table.publish(index, sequence, 1, Retention::once);
#else
    table.publish(proof, index, sequence, 1, Retention::once);
#endif
}
