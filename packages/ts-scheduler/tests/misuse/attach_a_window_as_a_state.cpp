// Pages hang where pages of their group do.
// expect: cannot convert .*Shared<.*Window>.* to .*Shared<.*RunningState>
#include "cache/kv_cache.h"

using namespace ts::scheduler;

void run(Attachments<RunningState>& states, Attachments<Window>& windows, PrefixIndex::Node node,
         const Shared<Window>& page) {
#ifdef MISUSE
    (void)windows;
    states.attach(node, page, Retention::once);
#else
    (void)states;
    windows.attach(node, page, Retention::once);
#endif
}
