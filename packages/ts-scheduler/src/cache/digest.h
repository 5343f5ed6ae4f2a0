#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

using Digest = std::uint64_t;

namespace detail {

// Folds the 128-bit product of two words: one multiplication mixes two tokens.
[[nodiscard]] inline std::uint64_t fold(std::uint64_t a, std::uint64_t b) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64U);
}

}  // namespace detail

// The digest of the empty prefix of a tenant.
[[nodiscard]] inline Digest root_digest(Salt salt) {
    constexpr std::uint64_t kEmpty = 0x9E3779B97F4A7C15ULL;
    return kEmpty ^ detail::fold(salt.low ^ kEmpty, salt.high + kEmpty);
}

// The digest of a prefix that ends with this block, from the digest of the prefix before it. It finds a
// candidate quickly and proves nothing: equality is decided on the token ids.
//
// The prefix comes in last, so the blocks of a prompt do not wait for each other. The constants' upper halves
// are no token ids, so no factor is zero by a sender's choice.
[[nodiscard]] inline Digest extend(Digest prefix, std::span<const Token> block) {
    constexpr std::uint64_t kFirst = 0xA0761D6478BD642FULL;
    constexpr std::uint64_t kSecond = 0xE7037ED1A0B428DBULL;
    constexpr std::uint64_t kThird = 0x8EBC6AF09C88C6E3ULL;
    constexpr std::uint64_t kFourth = 0xEB44ACCAB455D165ULL;
    constexpr std::uint64_t kFifth = 0xD6E8FEB86659FD93ULL;
    const auto pair = [&](std::size_t i) {
        return std::uint64_t{static_cast<std::uint32_t>(block[i + 1])} << 32U |
               static_cast<std::uint32_t>(block[i]);
    };
    // Four chains at once: one would wait for each product.
    std::array<std::uint64_t, 4> lanes{kSecond, kThird, kFourth, kFifth};
    std::size_t i = 0;
    for (; i + 16 <= block.size(); i += 16) {
        for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
            lanes[lane] = detail::fold(pair(i + 4 * lane) ^ kFirst, pair(i + 4 * lane + 2) ^ lanes[lane]);
        }
    }
    for (; i < block.size(); ++i) {
        lanes[0] = detail::fold(lanes[0] ^ kThird, static_cast<std::uint32_t>(block[i]) ^ kFirst);
    }
    const Digest low = detail::fold(lanes[0] ^ kFirst, lanes[1] ^ kSecond);
    const Digest high = detail::fold(lanes[2] ^ kFirst, lanes[3] ^ kSecond);
    const Digest whole = detail::fold(low ^ kFirst, high ^ kSecond ^ block.size());
    return detail::fold(whole ^ kFirst, prefix ^ kSecond);
}

}  // namespace ts::scheduler
