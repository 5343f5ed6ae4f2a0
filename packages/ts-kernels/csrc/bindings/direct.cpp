#include "bindings/direct.h"

#include <algorithm>
#include <array>
#include <utility>

namespace ts::direct {
namespace {

struct Torch {
  PyTypeObject* type;
  PyObject* is_neg;                    // the method
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
    return Torch{reinterpret_cast<PyTypeObject*>(py::object(type).release().ptr()),
                 py::object(type.attr("is_neg")).release().ptr(), find_table(type)};
  }();
  return found;
}

// Whether it may be the real or imaginary part of complex numbers: two numbers lie from each to the next. No others
// have a sign that torch has yet to turn, and to ask for it costs as much as the rest of a tensor's checks.
bool part_of_complex(const dlpack::Tensor& t) {
  if (t.dtype.code != dlpack::kFloat32.code) return false;
  for (int i = 0; i < t.ndim; ++i)
    if (t.shape[i] > 1 && t.strides[i] % 2) return false;
  return true;
}

// Whether torch has yet to turn the sign of a view's numbers.
bool negative(py::handle object) {
  PyObject* self = object.ptr();
  const py::object answer = py::reinterpret_steal<py::object>(PyObject_Vectorcall(torch().is_neg, &self, 1, nullptr));
  if (!answer) throw py::error_already_set();
  return answer.ptr() == Py_True;
}

// False for a tensor whose numbers do not lie in memory as they are.
bool borrow(py::handle object, dlpack::Tensor& out) {
  if (torch().table->tensor_from_object(object.ptr(), &out) != 0) {
    PyErr_Clear();
    return false;
  }
  if (!out.data && std::find(out.shape, out.shape + out.ndim, 0) == out.shape + out.ndim) return false;
  return !part_of_complex(out) || !negative(object);
}

void set_error(void*, const char*, const char* message) { PyErr_SetString(PyExc_MemoryError, message); }

}  // namespace

bool View::read(py::handle object, View& out) {
  const Torch& t = torch();
  return t.table && PyObject_TypeCheck(object.ptr(), t.type) && borrow(object, out.t_) &&
         out.t_.device.type == dlpack::kCpu;
}

bool readable(const py::args& arguments) {
  const Torch& t = torch();
  if (!t.table) return false;
  dlpack::Tensor tensor;
  for (const py::handle argument : arguments)
    if (PyObject_TypeCheck(argument.ptr(), t.type) && !borrow(argument, tensor)) return false;
  return true;
}

bool View::overlaps() const {
  i64 reach = 0;                               // how far behind the first element those of the closer dimensions lie
  std::array<std::pair<i64, i64>, 4> lines{};  // stride and size of each dimension
  if (rank() > static_cast<int>(lines.size())) return true;
  for (int i = 0; i < rank(); ++i) lines[i] = {stride(i), size(i)};
  std::sort(lines.begin(), lines.end());
  for (const auto& [step, count] : lines) {
    if (count <= 1) continue;
    if (step <= reach) return true;
    reach += step * (count - 1);
  }
  return false;
}

i64 View::run() const {
  i64 elements = 1;
  for (int i = 1; i < rank(); ++i) elements += (size(i) - 1) * stride(i);
  return elements * t_.dtype.bits / 8;
}

bool View::apart_from(const View& other) const {
  const auto step = [](const View& x) { return x.stride(0) * x.t_.dtype.bits / 8; };
  const auto end = [&](const View& x) { return x.data<char>() + (x.size(0) - 1) * step(x) + x.run(); };
  if (end(*this) <= other.data<char>() || end(other) <= data<char>()) return true;
  if (size(0) < 2 || other.size(0) < 2 || step(*this) != step(other) || step(*this) <= 0) return false;
  const i64 gap = (other.data<char>() - data<char>()) % step(*this);
  const i64 behind = gap < 0 ? gap + step(*this) : gap;
  return behind >= run() && step(*this) - behind >= other.run();
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
