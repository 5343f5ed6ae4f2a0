// There is no way back from shared to writable.
// expect: no matching function for call to .*::Writable\(
#include "cache/kv_cache.h"

using namespace ts::scheduler;

SharedPage run(SharedPage page) {
#ifdef MISUSE
    WritablePage back(std::move(page));
    return page;
#else
    return page;
#endif
}
