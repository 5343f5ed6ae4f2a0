// A copy is readable when it has been sealed with the proof that it has arrived.
// expect: cannot convert .*Writable<ts::scheduler::Host>.* to .*Shared<ts::scheduler::Host>
#include "cache/prefix_index.h"

using namespace ts::scheduler;

void run(PrefixIndex& index, PrefixIndex::Node node, Writable<Host> copy, const TransferProof& proof) {
#ifdef MISUSE
    (void)proof;
    index.attach(node, copy);
#else
    index.attach(node, std::move(copy).seal(proof));
#endif
}
