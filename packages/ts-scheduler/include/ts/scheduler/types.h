#pragma once

#include <cstdint>

namespace ts::scheduler {

using RequestId = std::int64_t;
using StepId = std::int64_t;
using Token = std::int32_t;
using PageId = std::int32_t;
using SlotId = std::int32_t;
using UserId = std::int64_t;

// Of a tenant: prefixes are reused between requests with the same salt alone.
struct Salt {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
    friend bool operator==(const Salt&, const Salt&) = default;
};

// A count of tokens, or a place in a sequence.
using Position = std::int32_t;

}  // namespace ts::scheduler
