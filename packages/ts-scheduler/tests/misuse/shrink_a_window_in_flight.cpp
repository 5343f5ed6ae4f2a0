// Blocks leave a window when a step settles, and not because somebody looks at the lease.
// expect: discards qualifiers
#include "request/dispatch.h"

using namespace ts::scheduler;

int run(InFlight<Decoding, 2>& in_flight) {
#ifdef MISUSE
    in_flight.lease().groups.windows.front().leave(1);
#endif
    return in_flight.lease().groups.windows.front().first();
}
