// A move-only, 64-byte aligned block of memory.
#pragma once

#include <cstddef>

namespace ts {

struct Chunk;

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);  // zeroed
  // Contents are unspecified. Small ones lie together in a chunk of large pages, which goes when the last of them does.
  static Buffer for_weights(std::size_t bytes);
  Buffer(Buffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_), chunk_(other.chunk_) {
    other.data_ = nullptr, other.bytes_ = 0, other.chunk_ = nullptr;
  }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Chunk* chunk_ = nullptr;  // null: memory of its own
};

// As a member, makes a struct movable but not copyable (a vector of buffers claims to be copyable).
struct MoveOnly {
  MoveOnly() = default;
  MoveOnly(MoveOnly&&) = default;
  MoveOnly& operator=(MoveOnly&&) = default;
};

}  // namespace ts
