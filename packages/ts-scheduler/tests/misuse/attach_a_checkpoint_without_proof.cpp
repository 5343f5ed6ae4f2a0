// A checkpoint can be found when the step that wrote it has come back.
// expect: cannot convert .*Writable<.*RunningState>.* to .*Shared<.*RunningState>
#include "cache/kv_cache.h"

using namespace ts::scheduler;

void run(Attachments<RunningState>& attached, PrefixIndex::Node node, Writable<RunningState> page,
         const SettleProof& proof) {
#ifdef MISUSE
    (void)proof;
    attached.attach(node, page, Retention::once);
#else
    attached.attach(node, std::move(page).seal(proof), Retention::once);
#endif
}
