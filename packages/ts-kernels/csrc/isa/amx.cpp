#include "isa/amx.h"

#if defined(TS_HAVE_AMX)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace ts {
namespace {

constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // CPUID 7.0, EDX
constexpr unsigned kOsSaves = 1u << 27;                       // CPUID 1, ECX: XGETBV works
constexpr unsigned kTileState = 3u << 17;                     // XCR0: tile configuration and data
constexpr int kRequestPermission = 0x1023, kTileData = 18;    // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA

unsigned enabled_state() {
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

std::string request_amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return "this CPU has none";
  if (!(d & kAmxTile)) return "this CPU lacks amx-tile";
  if (!(d & kAmxBf16)) return "this CPU lacks amx-bf16";
  __get_cpuid(1, &a, &b, &c, &d);
  if (!(c & kOsSaves) || (enabled_state() & kTileState) != kTileState)
    return "the operating system does not save the tile registers";
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0)
    return std::string("the operating system denies the tile registers: ") + std::strerror(errno);
  return "";
}

}  // namespace ts

#endif
