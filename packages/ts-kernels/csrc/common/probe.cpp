#include "common/probe.h"

namespace ts {

// Vectors that every x86-64 has in registers: with ones of 64 bytes, which the portable build spills, a core read 6.7
// GB/s where it reads 19 like this, and 18 without asking for lines ahead (Zen 3).
typedef u64 Piece __attribute__((vector_size(16)));
constexpr i64 kPieces = 8, kAhead = 512 / sizeof(Piece);

u64 read_all(const void* data, i64 bytes) {
  const Piece* pieces = static_cast<const Piece*>(data);
  Piece sums[kPieces]{};
  for (i64 i = 0; i + kPieces <= bytes / i64{sizeof(Piece)}; i += kPieces) {
    for (i64 j = 0; j < kPieces; ++j) sums[j] ^= pieces[i + j];
    __builtin_prefetch(pieces + i + kAhead);
    __builtin_prefetch(pieces + i + kAhead + 4);
  }
  u64 sum = 0;
  for (const Piece& x : sums) sum ^= x[0] ^ x[1];
  return sum;
}

}  // namespace ts
