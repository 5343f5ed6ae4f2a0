#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ts::scheduler {

// Appends MessagePack to a buffer, each value in its shortest form
// (https://github.com/msgpack/msgpack/blob/master/spec.md).
class Packer {
 public:
    explicit Packer(std::string& out) : out_(&out) {}

    void nil() { byte(0xC0); }
    void array(std::size_t size) { sized(size, 0x90, 15, 0xDC); }
    // At most 31 bytes.
    void name(std::string_view text) {
        byte(0xA0U | text.size());
        out_->append(text);
    }
    void binary(std::string_view bytes) {
        if (bytes.size() <= 0xFFU) {
            tagged(0xC4, bytes.size(), 1);
        } else if (bytes.size() <= 0xFFFFU) {
            tagged(0xC5, bytes.size(), 2);
        } else {
            tagged(0xC6, bytes.size(), 4);
        }
        out_->append(bytes);
    }
    void integer(std::int64_t value) {
        if (value >= 0) {
            natural(static_cast<std::uint64_t>(value));
        } else {
            negative(value);
        }
    }
    // What is MessagePack already.
    void packed(std::string_view bytes) { out_->append(bytes); }

 private:
    void byte(std::uint64_t value) { out_->push_back(static_cast<char>(value)); }
    void big_endian(std::uint64_t value, int bytes) {
        for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
            byte(value >> static_cast<unsigned>(shift) & 0xFFU);
        }
    }
    void tagged(unsigned tag, std::uint64_t value, int bytes) {
        byte(tag);
        big_endian(value, bytes);
    }
    void sized(std::size_t size, unsigned fix, std::size_t most, unsigned tag) {
        if (size <= most) {
            byte(fix | size);
        } else if (size <= 0xFFFFU) {
            tagged(tag, size, 2);
        } else {
            tagged(tag + 1, size, 4);
        }
    }
    void natural(std::uint64_t value) {
        if (value < 0x80U) {
            byte(value);
        } else if (value <= 0xFFU) {
            tagged(0xCC, value, 1);
        } else if (value <= 0xFFFFU) {
            tagged(0xCD, value, 2);
        } else if (value <= 0xFFFFFFFFU) {
            tagged(0xCE, value, 4);
        } else {
            tagged(0xCF, value, 8);
        }
    }
    void negative(std::int64_t value) {
        const auto bits = static_cast<std::uint64_t>(value);
        if (value >= -32) {
            byte(bits & 0xFFU);
        } else if (value >= INT8_MIN) {
            tagged(0xD0, bits, 1);
        } else if (value >= INT16_MIN) {
            tagged(0xD1, bits, 2);
        } else if (value >= INT32_MIN) {
            tagged(0xD2, bits, 4);
        } else {
            tagged(0xD3, bits, 8);
        }
    }

    std::string* out_;
};

}  // namespace ts::scheduler
