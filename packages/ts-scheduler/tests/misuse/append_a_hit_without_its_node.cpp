// A block table knows where in the index its prefix ends.
// expect: no matching function for call to .*BlockTable::append\(
#include "request/dispatch.h"

using namespace ts::scheduler;

void run(BlockTable& table, PrefixIndex::Node node, SharedPage page) {
#ifdef MISUSE
    (void)node;
    table.append(std::move(page));
#else
    table.append(node, std::move(page));
#endif
}
