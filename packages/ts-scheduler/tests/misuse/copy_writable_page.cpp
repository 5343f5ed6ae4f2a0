// A page has one writer: its handle cannot be copied.
// expect: use of deleted function .*Writable<Memory>::Writable\(const
#include "cache/kv_cache.h"

using namespace ts::scheduler;

WritablePage run(WritablePage& page) {
#ifdef MISUSE
    return page;
#else
    return std::move(page);
#endif
}
