// A state lends its lease to be read, and keeps it.
// expect: lease_.* is protected within this context
#include "request/dispatch.h"

using namespace ts::scheduler;

const Lease* run(Prefilling& prefilling) {
#ifdef MISUSE
    static LeasePtr stolen = std::move(prefilling.lease_);
    return stolen.get();
#else
    return &prefilling.lease();
#endif
}
