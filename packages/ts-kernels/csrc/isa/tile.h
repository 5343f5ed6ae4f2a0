// The tile registers that this translation unit is compiled for: AMX's, or their emulation.
//
// Both give, for the registers 0 to 7 (template arguments, as the instructions name them by number):
//   tile_configure, tile_configuration, tile_release
//   tile_zero<T>(), tile_load<T>(from, row_bytes), tile_store<T>(to, row_bytes)
//   tile_dot<C, A, B>()  c[m][n] += sum over k of a[m][2k] * b[k][2n] + a[m][2k + 1] * b[k][2n + 1], a and b bf16
#pragma once

#include "isa/tile_config.h"

#if defined(TS_ISA_AMX)
#include "isa/tile_amx.h"
#else
#include "isa/tile_emulated.h"
#endif
