#include "bindings/direct.h"

#include <algorithm>

namespace ts::direct {
namespace {

struct Torch {
  PyTypeObject* type;
  const dlpack::ExchangeTable* table;  // null: this torch has none that is usable
};

const dlpack::ExchangeTable* find_table(py::handle tensor_type) {
  if (!py::hasattr(tensor_type, "__dlpack_c_exchange_api__")) return nullptr;
  const py::object capsule = tensor_type.attr("__dlpack_c_exchange_api__");
  const auto* table =
      static_cast<const dlpack::ExchangeTable*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!table) {
    PyErr_Clear();
    return nullptr;
  }
  for (; table && table->version.major != dlpack::kMajor; table = table->previous) {
  }
  return table && table->tensor_from_object ? table : nullptr;
}

// Held for the life of the process, as torch is.
const Torch& torch() {
  static const Torch found = [] {
    const py::object type = py::module_::import("torch").attr("Tensor");
    return Torch{reinterpret_cast<PyTypeObject*>(py::object(type).release().ptr()), find_table(type)};
  }();
  return found;
}

void set_error(void*, const char*, const char* message) { PyErr_SetString(PyExc_MemoryError, message); }

}  // namespace

bool View::read(py::handle object, View& out) {
  const Torch& t = torch();
  if (!t.table || !PyObject_TypeCheck(object.ptr(), t.type)) return false;
  if (t.table->tensor_from_object(object.ptr(), &out.t_) != 0) {
    PyErr_Clear();
    return false;
  }
  if (out.t_.device.type != dlpack::kCpu) return false;
  if (!out.t_.data && std::find(out.t_.shape, out.t_.shape + out.t_.ndim, 0) == out.t_.shape + out.t_.ndim)
    throw py::value_error("a tensor without memory, as FakeTensor's are: kernels read and cannot be traced");
  return true;
}

Fresh fresh(std::initializer_list<i64> shape, dlpack::DataType dtype) {
  const Torch& t = torch();
  i64 sizes[4];
  std::copy(shape.begin(), shape.end(), sizes);
  dlpack::Tensor prototype{nullptr, {dlpack::kCpu, 0}, static_cast<std::int32_t>(shape.size()), dtype, sizes, nullptr,
                           0};
  dlpack::ManagedTensor* managed = nullptr;
  if (t.table->allocate(&prototype, &managed, nullptr, &set_error) != 0) throw py::error_already_set();
  void* data = static_cast<char*>(managed->tensor.data) + managed->tensor.byte_offset;
  void* object = nullptr;
  if (t.table->object_from_managed(managed, &object) != 0) throw py::error_already_set();
  return {py::reinterpret_steal<py::object>(static_cast<PyObject*>(object)), data};
}

}  // namespace ts::direct
