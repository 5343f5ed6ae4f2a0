#include "common/buffer.h"

#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ts {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// What is allocated for `bytes` bytes: whole large pages where that costs at most an eighth (an expert's matrix often
// falls just short of one).
std::size_t allocated(std::size_t bytes) {
  const std::size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  return whole - bytes <= bytes / 8 ? whole : bytes;
}

std::size_t alignment_of(std::size_t bytes) { return allocated(bytes) >= kHugePage ? kHugePage : 64; }

// Weights are read once a token from end to end: with 4 KB pages a core read 25 GB/s, with 2 MB pages 32 (Zen 4).
void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  if (bytes >= kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
}

}  // namespace

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = ::operator new(allocated(bytes), std::align_val_t{alignment_of(bytes)});
  ask_for_huge_pages(data_, allocated(bytes));
  std::memset(data_, 0, bytes);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_) ::operator delete(data_, std::align_val_t{alignment_of(bytes_)});
}

}  // namespace ts
