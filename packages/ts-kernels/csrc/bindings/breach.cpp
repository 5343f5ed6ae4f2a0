#include "bindings/breach.h"

#include "bindings/engine.h"

namespace ts {

void refuse(const char* operation, std::string argument, std::string expected, std::string given) {
  throw Breach{operation, std::move(argument), std::move(expected), std::move(given)};
}

void bind_breach() {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Breach& breach) {
      const py::object type = py::module_::import("ts_kernels.errors").attr("ContractError");
      PyErr_SetObject(type.ptr(), type(breach.operation, breach.argument, breach.expected, breach.given).ptr());
    }
  });
}

}  // namespace ts
