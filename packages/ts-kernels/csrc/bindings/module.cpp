#include <pybind11/stl.h>

#include "bindings/engine.h"
#include "common/probe.h"
#include "isa/self_check.h"

namespace ts {

Engine::Engine() {
  const unsigned cores = std::thread::hardware_concurrency();
  pool_ = std::make_unique<Pool>(cores > 0 ? static_cast<int>(cores) : 1, spin_us_);
}

void Engine::set_threads(int n) {
  require(n >= 1 && n <= 1024, "set_threads: n must be between 1 and 1024");
  if (n == pool_->threads()) return;
  pool_ = std::make_unique<Pool>(n, spin_us_);
}

void Engine::set_spin(int microseconds) {
  require(microseconds >= 0, "set_spin: microseconds must not be negative");
  pool_->set_spin(spin_us_ = microseconds);
}

const KernelTable& Engine::find(const std::string& name) const {
  if (name == "auto") return sets_.usable.back();
  if (name == sets_.emulated.name) return sets_.emulated;
  for (const KernelTable& table : sets_.usable)
    if (name == table.name) return table;
  std::string message = "set_isa: this machine cannot run '" + name + "'; choose auto";
  for (const std::string& usable : features()) message += ", " + usable;
  throw py::value_error(message);
}

void Engine::set_isa(const std::string& name) { table_ = &find(name); }

bool Engine::check_isa(const std::string& name) const { return same_products(sets_.usable.front(), find(name)); }

std::vector<std::string> Engine::features() const {
  std::vector<std::string> names;
  for (const KernelTable& table : sets_.usable) names.emplace_back(table.name);
  return names;
}

DType dtype_of(int code) {
  require(code == 0 || code == 1, "dtype codes are FP32 (0) and BF16 (1)");
  return static_cast<DType>(code);
}

DType cache_dtype_of(int code) { return code == 2 ? DType::e4m3 : dtype_of(code); }

}  // namespace ts

PYBIND11_MODULE(_native, m) {
  using namespace ts;
  // Lives as long as the process. Its threads end in the atexit hook, while their code is still mapped; a call that
  // comes later still runs, on the calling thread.
  static Engine* engine = new Engine();
  py::module_::import("atexit").attr("register")(py::cpp_function([] { engine->set_threads(1); }));
  m.attr("FP32") = 0;
  m.attr("BF16") = 1;
  m.def("set_threads", [](int n) { engine->set_threads(n); }, py::arg("n"));
  m.def("threads", [] { return engine->threads(); });
  m.def("set_spin", [](int us) { engine->set_spin(us); }, py::arg("microseconds"));
  m.def("set_isa", [](const std::string& name) { engine->set_isa(name); }, py::arg("name"));
  m.def("isa", [] { return engine->isa(); });
  m.def("features", [] { return engine->features(); });
  m.def("amx_refusal", [] { return engine->amx_refusal(); });
  m.def("check_isa", [](const std::string& name) { return engine->check_isa(name); }, py::arg("name"));
  m.def("read_all", [](Address data, i64 bytes) {
    py::gil_scoped_release release;
    return read_all(engine->pool(), pointer(data), bytes);
  });
  bind_elementwise(m, *engine);
  bind_matrix(m, *engine);
  bind_attention(m, *engine);
  bind_attention_paged(m, *engine);
  bind_sampling(m, *engine);
  bind_linear_attention(m, *engine);
  bind_direct(m, *engine);
  bind_pieces(m, *engine);
  bind_breach();
}
