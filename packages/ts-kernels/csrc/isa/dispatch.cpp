#include "isa/dispatch.h"

#include "isa/amx.h"
#include "isa/self_check.h"

namespace ts {

namespace portable {
extern const KernelTable table;
}
namespace amx_emulated {
KernelTable table();
}
#if defined(TS_HAVE_AVX2)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512_bf16 {
extern const KernelTable table;
}
#endif
#if defined(TS_HAVE_AMX)
namespace amx {
KernelTable table();
}
#endif

namespace {

// __builtin_cpu_supports asks the operating system too (XCR0): a name it affirms has its registers saved on a switch.
void add_vectors([[maybe_unused]] std::vector<KernelTable>& tables) {
#if defined(TS_HAVE_AVX2)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
  tables.push_back(avx2::table);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512cd"))
    return;
  tables.push_back(avx512::table);
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bf16") ||
      !__builtin_cpu_supports("avx512vbmi"))
    return;
  tables.push_back(avx512_bf16::table);
#endif
}

// Empty, and the table added, where AMX can be used.
std::string add_amx([[maybe_unused]] std::vector<KernelTable>& tables) {
#if defined(TS_HAVE_AMX)
  if (tables.back().name != std::string(avx512_bf16::table.name))
    return "this CPU lacks AVX-512 with VNNI, BF16 and VBMI";
  if (std::string refusal = request_amx(); !refusal.empty()) return refusal;
  const KernelTable table = amx::table();
  if (!same_products(avx512::table, table)) return "its products differ from AVX-512's";
  tables.push_back(table);
  return "";
#else
  return "not built: it needs Linux on x86-64 and a compiler that knows it";
#endif
}

}  // namespace

InstructionSets instruction_sets() {
  InstructionSets sets{{portable::table}, amx_emulated::table(), ""};
  add_vectors(sets.usable);
  sets.amx_refusal = add_amx(sets.usable);
  return sets;
}

}  // namespace ts
