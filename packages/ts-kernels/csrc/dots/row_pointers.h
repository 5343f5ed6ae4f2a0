// The rows of a strip: in blocks, and pointers to those of a tile.
#pragma once

#include "common/types.h"

namespace ts::TS_ISA {

// body(first row, height) for `rows` rows in blocks of equal height, to one row, that have at most `tallest`.
template <class Body>
TS_INLINE void in_blocks(i64 rows, i64 tallest, const Body& body) {
  const i64 blocks = ceil_div(rows, tallest);
  for (i64 block = 0; block < blocks; ++block) {
    const i64 begin = rows * block / blocks;
    body(begin, rows * (block + 1) / blocks - begin);
  }
}

// Pointers to kRows rows a stride apart: one to every third, as an address may be a pointer and a stride once or twice.
// Left to itself the compiler keeps one a row, more than there are registers, and fetches the others by way of vectors.
template <class T, int kRows>
struct RowPointers {
  const T* every[(kRows + 2) / 3];
  i64 stride;

  TS_INLINE RowPointers of(const T* first, i64 stride) {
    RowPointers a;
    for (int i = 0; i < (kRows + 2) / 3; ++i) a.every[i] = first + 3 * i * stride;
    a.stride = stride;
    return a;
  }
  TS_INLINE const T* row(const RowPointers& a, int r) { return a.every[r / 3] + r % 3 * a.stride; }
  // To be called in each round of a loop: makes the pointers unknown to the compiler.
  TS_INLINE void advance(RowPointers& a, i64 by) {
#pragma GCC unroll 4
    for (const T*& p : a.every) {
      const T* next = p + by;
      asm("" : "+r"(next));
      p = next;
    }
  }
};

}  // namespace ts::TS_ISA
