#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace ts::scheduler {

// Whether bytes are exactly one MessagePack value. What a request brings goes into the plan of all, unread.
class Unpacker {
 public:
    explicit Unpacker(std::string_view bytes) : rest_(bytes) {}

    [[nodiscard]] bool holds_one_value() {
        // Each value announces those inside it; more than there are bytes cannot be there.
        for (std::uint64_t open = 1; open > 0; --open) {
            const auto inside = rest_.empty() ? std::nullopt : value();
            if (!inside || open + *inside > rest_.size() + 1) {
                return false;
            }
            open += *inside;
        }
        return rest_.empty();
    }

 private:
    // Passes a value's head and bytes; the number of values inside it, or nothing when it is cut short.
    [[nodiscard]] std::optional<std::uint64_t> value() {
        const auto tag = static_cast<std::uint8_t>(rest_.front());
        rest_.remove_prefix(1);
        if (tag <= 0x7F || tag >= 0xE0 || tag == 0xC0 || tag == 0xC2 || tag == 0xC3) {
            return 0;  // integers in the tag, nil, false, true
        }
        if (tag <= 0x9F) {
            return (tag & 0x0FU) * (tag <= 0x8F ? 2U : 1U);  // maps, arrays
        }
        if (tag <= 0xBF) {
            return pass(tag & 0x1FU);  // strings
        }
        return tag == 0xC1 ? std::nullopt : longer(tag);
    }

    [[nodiscard]] std::optional<std::uint64_t> longer(std::uint8_t tag) {
        if (tag >= 0xCA && tag <= 0xD3) {  // floats, then unsigned and signed integers
            return pass(tag <= 0xCB ? 4U << (tag - 0xCAU) : 1U << ((tag - 0xCCU) & 3U));
        }
        if (tag >= 0xD4 && tag <= 0xD8) {  // extensions of 1 to 16 bytes
            return pass(1U + (1U << (tag - 0xD4U)));
        }
        if (tag >= 0xDC) {  // arrays, maps
            const auto count = number(tag % 2 == 0 ? 2 : 4);
            return count ? std::optional(*count * (tag >= 0xDE ? 2 : 1)) : std::nullopt;
        }
        if (tag >= 0xD9) {  // strings
            const auto size = number(1U << (tag - 0xD9U));
            return size ? pass(*size) : std::nullopt;
        }
        const bool extension = tag >= 0xC7;  // else bytes
        const auto size = number(1U << (extension ? tag - 0xC7U : tag - 0xC4U));
        return size ? pass(*size + (extension ? 1 : 0)) : std::nullopt;
    }

    [[nodiscard]] std::optional<std::uint64_t> number(unsigned bytes) {
        if (rest_.size() < bytes) {
            return std::nullopt;
        }
        std::uint64_t result = 0;
        for (unsigned i = 0; i < bytes; ++i) {
            result = result << 8U | static_cast<std::uint8_t>(rest_[i]);
        }
        rest_.remove_prefix(bytes);
        return result;
    }
    [[nodiscard]] std::optional<std::uint64_t> pass(std::uint64_t bytes) {
        if (rest_.size() < bytes) {
            return std::nullopt;
        }
        rest_.remove_prefix(bytes);
        return 0;
    }

    std::string_view rest_;
};

}  // namespace ts::scheduler
