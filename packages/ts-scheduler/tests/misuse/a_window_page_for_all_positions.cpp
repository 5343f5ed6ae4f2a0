// Pages of different memories are different types: a window's page is not one of all positions.
// expect: no matching function for call to .*BlockTable::append
#include "cache/block_table.h"

using namespace ts::scheduler;

void run(BlockTable& table, WritablePage page, Writable<Window> other) {
#ifdef MISUSE
    (void)page;
    table.append(std::move(other));
#else
    (void)other;
    table.append(std::move(page));
#endif
}
