// A window's block is sealed when the step that wrote it has come back.
// expect: no matching function for call to .*WindowTable::publish\(
#include "request/dispatch.h"

using namespace ts::scheduler;

void run(WindowTable& table, Attachments<Window>& attached, PrefixIndex::Node node,
         const SettleProof& proof) {
#ifdef MISUSE
    (void)proof;
    table.publish(attached, node, Retention::once);
#else
    table.publish(proof, attached, node, Retention::once);
#endif
}
