#pragma once

#include <span>

#include "cache/digest.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// What decides whether two blocks are the same: the block before them, or at the root the tenant's salt, and
// their tokens. The digest finds candidates.
struct BlockKey {
    std::int32_t parent;  // PrefixIndex::Node
    Salt salt;
    Digest digest;
    std::span<const Token> tokens;
};

}  // namespace ts::scheduler
