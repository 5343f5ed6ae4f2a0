// The part of DLPack's stable C interface that reads and makes tensors of another library (dlpack.h, version 1.3).
#pragma once

#include <cstdint>

namespace ts::dlpack {

struct Version {
  std::uint32_t major, minor;
};

struct Device {
  std::int32_t type, id;
};

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
  bool operator==(const DataType&) const = default;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct ManagedTensor {
  Version version;
  void* manager_context;
  void (*deleter)(ManagedTensor* self);
  std::uint64_t flags;
  Tensor tensor;
};

using SetError = void (*)(void* context, const char* kind, const char* message);

// A library's table of functions; its tensor type has it as the capsule `__dlpack_c_exchange_api__`.
struct ExchangeTable {
  Version version;
  ExchangeTable* previous;
  int (*allocate)(Tensor* prototype, ManagedTensor** out, void* error_context, SetError set_error);
  int (*managed_from_object)(void* object, ManagedTensor** out);
  int (*object_from_managed)(ManagedTensor* tensor, void** out_object);
  int (*tensor_from_object)(void* object, Tensor* out);  // borrows; may be null
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** out);
};

constexpr std::int32_t kCpu = 1;
constexpr std::uint32_t kMajor = 1;
constexpr DataType kInt32{0, 32, 1}, kInt64{0, 64, 1}, kFloat32{2, 32, 1}, kBFloat16{4, 16, 1}, kFloat16{2, 16, 1};

}  // namespace ts::dlpack
