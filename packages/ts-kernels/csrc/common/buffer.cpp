#include "common/buffer.h"

#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ts {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20, kChunk = 16 * kHugePage, kLine = 64;

// What is allocated for `bytes` bytes: whole large pages where that costs at most an eighth (an expert's matrix often
// falls just short of one).
std::size_t allocated(std::size_t bytes) {
  const std::size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  return whole - bytes <= bytes / 8 ? whole : bytes;
}

std::size_t alignment_of(std::size_t bytes) { return allocated(bytes) >= kHugePage ? kHugePage : kLine; }

// Weights are read once a token from end to end: with 4 KB pages a core read 25 GB/s, with 2 MB pages 32 (Zen 4). New
// memory comes at 0.9 and at 4.5 GB/s (there, in a virtual machine), where filling it takes a tenth of a second a GB.
void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  if (bytes >= kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

void* allocate(std::size_t bytes) {
  void* data = ::operator new(allocated(bytes), std::align_val_t{alignment_of(bytes)});
  ask_for_huge_pages(data, allocated(bytes));
  return data;
}

void release(void* data, std::size_t bytes) { ::operator delete(data, std::align_val_t{alignment_of(bytes)}); }

}  // namespace

struct Chunk {
  char* data;
  std::size_t used = 0;
  int buffers = 0;
};

namespace {

std::mutex chunks;
Chunk* open_chunk = nullptr;  // where the next small buffer goes, if it fits

char* take(std::size_t bytes, Chunk*& chunk) {
  const std::size_t whole = (bytes + kLine - 1) / kLine * kLine;
  std::lock_guard lock(chunks);
  if (!open_chunk || open_chunk->used + whole > kChunk)
    open_chunk = new Chunk{static_cast<char*>(allocate(kChunk))};  // the full one goes with its last buffer
  chunk = open_chunk;
  ++chunk->buffers;
  char* data = chunk->data + chunk->used;
  chunk->used += whole;
  return data;
}

void give_back(Chunk* chunk) {
  std::lock_guard lock(chunks);
  if (--chunk->buffers > 0) return;
  if (chunk == open_chunk) open_chunk = nullptr;
  release(chunk->data, kChunk);
  delete chunk;
}

}  // namespace

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = allocate(bytes);
  std::memset(data_, 0, bytes);
}

Buffer Buffer::for_weights(std::size_t bytes) {
  Buffer buffer;
  buffer.bytes_ = bytes;
  if (bytes == 0) return buffer;
  const bool small = allocated(bytes) % kHugePage != 0 && bytes <= kChunk;
  buffer.data_ = small ? take(bytes, buffer.chunk_) : allocate(bytes);
  return buffer;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(chunk_, other.chunk_);
  return *this;
}

Buffer::~Buffer() {
  if (!data_) return;
  chunk_ ? give_back(chunk_) : release(data_, bytes_);
}

}  // namespace ts
