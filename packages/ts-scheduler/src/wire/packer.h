#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace ts::scheduler {

// Appends MessagePack to a buffer, each value in its shortest form
// (https://github.com/msgpack/msgpack/blob/master/spec.md). While it lives the buffer is longer than what is
// written: asking a string for room at every byte cost a tenth of a step.
class Packer {
 public:
    explicit Packer(std::string& out) : out_(&out), used_(out.size()) {}
    Packer(const Packer&) = delete;
    Packer& operator=(const Packer&) = delete;
    Packer(Packer&&) = delete;
    Packer& operator=(Packer&&) = delete;
    ~Packer() { out_->resize(used_); }

    void nil() { byte(0xC0); }
    void array(std::size_t size) { sized(size, 0x90, 15, 0xDC); }
    // At most 31 bytes.
    void name(std::string_view text) {
        byte(0xA0U | text.size());
        packed(text);
    }
    void binary(std::string_view bytes) {
        if (bytes.size() <= 0xFFU) {
            tagged<1>(0xC4, bytes.size());
        } else if (bytes.size() <= 0xFFFFU) {
            tagged<2>(0xC5, bytes.size());
        } else {
            tagged<4>(0xC6, bytes.size());
        }
        packed(bytes);
    }
    void integer(std::int64_t value) {
        if (value >= 0) {
            natural(static_cast<std::uint64_t>(value));
        } else {
            negative(value);
        }
    }
    // What is MessagePack already.
    void packed(std::string_view bytes) { std::ranges::copy(bytes, room(bytes.size())); }

 private:
    [[nodiscard]] char* room(std::size_t size) {
        if (out_->size() - used_ < size) {
            out_->resize(std::max(2 * out_->size(), used_ + size + 128));
        }
        return out_->data() + std::exchange(used_, used_ + size);
    }
    void byte(std::uint64_t value) { *room(1) = static_cast<char>(value); }
    template <unsigned Bytes>
    void tagged(unsigned tag, std::uint64_t value) {
        char* at = room(1 + Bytes);
        *at++ = static_cast<char>(tag);
        for (unsigned i = 0; i < Bytes; ++i) {  // big endian
            at[i] = static_cast<char>(value >> 8U * (Bytes - 1 - i));
        }
    }
    void sized(std::size_t size, unsigned fix, std::size_t most, unsigned tag) {
        if (size <= most) {
            byte(fix | size);
        } else if (size <= 0xFFFFU) {
            tagged<2>(tag, size);
        } else {
            tagged<4>(tag + 1, size);
        }
    }
    void natural(std::uint64_t value) {
        if (value < 0x80U) {
            byte(value);
        } else if (value <= 0xFFU) {
            tagged<1>(0xCC, value);
        } else if (value <= 0xFFFFU) {
            tagged<2>(0xCD, value);
        } else if (value <= 0xFFFFFFFFU) {
            tagged<4>(0xCE, value);
        } else {
            tagged<8>(0xCF, value);
        }
    }
    void negative(std::int64_t value) {
        const auto bits = static_cast<std::uint64_t>(value);
        if (value >= -32) {
            byte(bits & 0xFFU);
        } else if (value >= INT8_MIN) {
            tagged<1>(0xD0, bits);
        } else if (value >= INT16_MIN) {
            tagged<2>(0xD1, bits);
        } else if (value >= INT32_MIN) {
            tagged<4>(0xD2, bits);
        } else {
            tagged<8>(0xD3, bits);
        }
    }

    std::string* out_;
    std::size_t used_;  // bytes of it that are written
};

}  // namespace ts::scheduler
