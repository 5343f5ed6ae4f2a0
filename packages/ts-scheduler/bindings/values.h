#pragma once

#include <pybind11/pybind11.h>

// Binds what is only read: the configuration, rejections, statistics, snapshots.
void bind_values(pybind11::module_& module);
