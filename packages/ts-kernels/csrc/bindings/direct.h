// Calls that take and give torch tensors, without torch's headers and without Python between them.
//
// A direct call answers NotImplemented where an argument is not what the kernel takes as it is (another device, dtype,
// rank, size, layout); the Python function then says what is wrong, copies, or chooses another kernel. So a steady
// decode step pays one call an operation: 2 us with the allocation of the result, 15 us through Python (Skylake, 2.5
// GHz).
#pragma once

#include <optional>

#include "bindings/engine.h"
#include "common/dlpack.h"

namespace ts::direct {

// A CPU tensor's address, sizes and strides, borrowed for the length of a call.
class View {
 public:
  // False where `object` is no torch tensor on the CPU whose numbers lie in memory as they are (see `readable` in
  // contract.py), or this torch has no exchange table.
  static bool read(py::handle object, View& out);

  i64 rank() const { return t_.ndim; }
  i64 size(int i) const { return t_.shape[i]; }
  i64 stride(int i) const { return t_.strides[i]; }
  dlpack::DataType dtype() const { return t_.dtype; }
  bool is(dlpack::DataType dtype) const { return t_.dtype == dtype; }
  bool is_float() const { return is(dlpack::kFloat32) || is(dlpack::kBFloat16); }
  DType code() const { return is(dlpack::kFloat32) ? DType::f32 : DType::bf16; }
  template <class T = void>
  T* data() const {
    return reinterpret_cast<T*>(static_cast<char*>(t_.data) + t_.byte_offset);
  }

  // Whether elements are one another's memory, as those of an expanded tensor are.
  bool overlaps() const;
  // Whether no element of `other` is surely or possibly in this tensor's memory.
  bool apart_from(const View& other) const;

  bool vector(i64 n) const { return rank() == 1 && size(0) == n && (stride(0) == 1 || n <= 1); }
  bool matrix() const { return rank() == 2 && (stride(1) == 1 || size(1) <= 1); }
  bool matrix(i64 columns) const { return matrix() && size(1) == columns; }
  bool dense(i64 rows, i64 columns) const {
    return matrix(columns) && size(0) == rows && (stride(0) == columns || rows <= 1);
  }
  // [tokens][heads][width] with the heads of a token side by side.
  bool heads() const { return rank() == 3 && size(1) > 0 && size(2) > 0 && stride(2) == 1 && stride(1) == size(2); }
  bool dense3() const {
    return rank() == 3 && stride(2) == 1 && stride(1) == size(2) && (stride(0) == size(1) * size(2) || size(0) <= 1);
  }

 private:
  // Bytes from the first element of a line of the first dimension to the end of its last.
  i64 run() const;

  dlpack::Tensor t_;
};

// Whether every tensor among them surely has its numbers in memory as they are, on any device.
bool readable(const py::args& arguments);

template <class... Views>
bool read(std::initializer_list<py::handle> objects, Views&... views) {
  const py::handle* object = objects.begin();
  return (View::read(*object++, views) && ...);
}

// An uninitialised torch tensor on the CPU; `data` is its address.
struct Fresh {
  py::object object;
  void* data;
};
Fresh fresh(std::initializer_list<i64> shape, dlpack::DataType dtype);

inline py::object declined() { return py::reinterpret_borrow<py::object>(Py_NotImplemented); }

}  // namespace ts::direct
