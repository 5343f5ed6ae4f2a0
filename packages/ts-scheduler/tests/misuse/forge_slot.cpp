// Only the pool makes slots.
// expect: Slot::Slot\(.*\).* is private within this context
#include "request/dispatch.h"

using namespace ts::scheduler;

std::optional<Slot> run(SlotPool& pool) {
#ifdef MISUSE
    return Slot(pool, 0);
#else
    return pool.take();
#endif
}
