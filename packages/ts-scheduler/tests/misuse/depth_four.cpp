// There is no type for four steps in flight.
// expect: one to three steps are in flight
#include "request/dispatch.h"

using namespace ts::scheduler;

auto run() {
#ifdef MISUSE
    return sizeof(InFlight<Decoding, 4>);
#else
    return sizeof(InFlight<Decoding, 3>);
#endif
}
