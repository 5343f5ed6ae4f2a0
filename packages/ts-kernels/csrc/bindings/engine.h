// What one process's calls share: the threads and the chosen instruction set.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "isa/dispatch.h"
#include "parallel/pool.h"

namespace ts {

namespace py = pybind11;
using Address = std::uintptr_t;

class Engine {
 public:
  Engine();
  void set_threads(int n);
  void set_spin(int microseconds);
  void set_isa(const std::string& name);
  std::vector<std::string> features() const;
  const std::string& amx_refusal() const { return sets_.amx_refusal; }
  bool check_isa(const std::string& name) const;
  int threads() const { return pool_->threads(); }
  Pool& pool() { return *pool_; }
  std::string isa() const { return table_->name; }

  // Runs one kernel; without the GIL where the work is worth it (a release and its return cost 0.1 us, or a wait for
  // the interpreter's switch interval when another thread computes).
  template <class Args>
  void run(void (*KernelTable::*kernel)(Pool&, const Args&), const Args& args, i64 flops) {
    if (flops < 200'000) return (table_->*kernel)(*pool_, args);
    py::gil_scoped_release release;
    (table_->*kernel)(*pool_, args);
  }

 private:
  const KernelTable& find(const std::string& name) const;

  const InstructionSets sets_ = instruction_sets();
  const KernelTable* table_ = &sets_.usable.back();
  std::unique_ptr<Pool> pool_;
  int spin_us_ = 200;  // more than the Python between two operations takes; a worker that slept comes 60 us late
};

// Throws ValueError.
inline void require(bool holds, const char* message) {
  if (!holds) throw py::value_error(message);
}

DType dtype_of(int code);
DType cache_dtype_of(int code);  // e4m3 (2) too

template <class T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

void bind_elementwise(py::module_& m, Engine& engine);
void bind_matrix(py::module_& m, Engine& engine);
void bind_attention(py::module_& m, Engine& engine);
void bind_attention_paged(py::module_& m, Engine& engine);
void bind_sampling(py::module_& m, Engine& engine);
void bind_linear_attention(py::module_& m, Engine& engine);
void bind_direct(py::module_& m, Engine& engine);
void bind_pieces(py::module_& m, Engine& engine);
void bind_breach();

}  // namespace ts
