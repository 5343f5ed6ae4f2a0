// Checkpoints take no page that a request may need: only the room for them gives a place.
// expect: CheckpointPlace::CheckpointPlace\(.*\).* is private within this context
#include "cache/kv_cache.h"

using namespace ts::scheduler;

std::optional<CheckpointPlace> run(CheckpointRoom& room) {
#ifdef MISUSE
    return CheckpointPlace(room);
#else
    return room.take();
#endif
}
