// Whether this process may use AMX's tile registers.
#pragma once

#include <string>

namespace ts {

// Asks the CPU, then the operating system for leave to use the registers, which holds for all threads from then on.
// Gives why not, or nothing.
std::string request_amx();

}  // namespace ts
