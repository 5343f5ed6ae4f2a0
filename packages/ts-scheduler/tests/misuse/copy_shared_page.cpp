// A share is counted: share() makes one, copying does not.
// expect: use of deleted function .*Shared<Memory>::Shared\(const
#include "cache/kv_cache.h"

using namespace ts::scheduler;

SharedPage run(const SharedPage& page) {
#ifdef MISUSE
    return page;
#else
    return page.share();
#endif
}
