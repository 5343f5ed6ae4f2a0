// Which instruction sets this machine has, and their kernels.
#pragma once

#include <string>
#include <vector>

#include "ops/kernels.h"

namespace ts {

struct InstructionSets {
  std::vector<KernelTable> usable;  // best last; "amx" is among them only once its self-check has passed
  KernelTable emulated;             // AMX's kernels on emulated tiles: slow, for tests
  std::string amx_refusal;          // why "amx" is not among the usable; empty where it is
};
InstructionSets instruction_sets();

}  // namespace ts
