// A tile form's table: its own matrix operations, everything else from the instruction set whose vectors it uses.
#include "ops/ops.h"

#define TS_STRING_OF(x) #x
#define TS_STRING(x) TS_STRING_OF(x)

namespace ts {

namespace TS_VECTORS {
extern const KernelTable table;
}

namespace TS_ISA {

KernelTable table() {
  KernelTable table = TS_VECTORS::table;
  table.name = TS_STRING(TS_ISA);
  table.linear = linear;
  table.mlp = mlp;
  table.experts = experts;
  table.grouped_linear = grouped_linear;
  return table;
}

}  // namespace TS_ISA
}  // namespace ts
