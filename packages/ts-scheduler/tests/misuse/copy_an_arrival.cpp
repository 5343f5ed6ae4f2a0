// One ticket, one transfer.
// expect: use of deleted function .*Arrival::Arrival\(const
#include "transfer/arrival.h"

using namespace ts::scheduler;

Arrival run(Arrival arrival) {
#ifdef MISUSE
    const Arrival& same = arrival;
    return same;
#else
    return arrival;
#endif
}
