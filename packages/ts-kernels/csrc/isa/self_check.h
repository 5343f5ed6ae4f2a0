// Comparing one instruction set's matrix products with another's.
#pragma once

#include "ops/kernels.h"

namespace ts {

// A handful of bf16 and INT4 products by both, of whole numbers so small that every order of summation is exact.
bool same_products(const KernelTable& trusted, const KernelTable& checked);

}  // namespace ts
