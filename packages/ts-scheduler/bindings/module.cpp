#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ts/scheduler/scheduler.h"
#include "ts/scheduler/wire.h"
#include "values.h"

namespace py = pybind11;
namespace ts_sched = ts::scheduler;

namespace {

// Aligned: numpy copies an array that came at an odd address of a message frame.
constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
using Ints = py::array_t<std::int32_t, py::array::c_style | kAligned>;

Ints vector_of(const std::vector<ts_sched::Token>& values) {
    return Ints(static_cast<py::ssize_t>(values.size()), values.data());
}

// The structs of a plan are int32 [n, Width] in memory (asserted beside their definitions).
template <std::size_t Width, class T>
Ints matrix_of(const std::vector<T>& values) {
    static_assert(sizeof(T) == Width * sizeof(std::int32_t));
    const std::array<py::ssize_t, 2> shape{static_cast<py::ssize_t>(values.size()), Width};
    Ints result(shape);
    std::memcpy(result.mutable_data(), values.data(), values.size() * sizeof(T));
    return result;
}

// The ids of a one-dimensional array, where they are.
// Nothing is converted: a list of fractions would lose them, and 64-bit ids their upper half.
Ints ints_of(const py::handle& value, const char* field) {
    static const py::dtype& int32 =
        *new py::dtype(py::dtype::of<std::int32_t>());  // outlives the interpreter
    const auto fix = [&] { return std::string("; pass numpy.asarray(") + field + ", numpy.int32)"; };
    if (!py::isinstance<py::array>(value)) {
        throw py::type_error(std::string(field) + " is a " + Py_TYPE(value.ptr())->tp_name + fix());
    }
    const auto array = py::reinterpret_borrow<py::array>(value);
    if (!array.dtype().is(int32) && !array.dtype().equal(int32)) {
        throw py::type_error(std::string(field) + " has dtype " + std::string(py::str(array.dtype())) +
                             fix());
    }
    return Ints::ensure(array);
}

std::span<const ts_sched::Token> tokens_in(const Ints& array, const char* field) {
    if (array.ndim() != 1) {
        throw py::value_error(std::string(field) + " has " + std::to_string(array.ndim()) +
                              " dimensions; pass an int32 array of one");
    }
    return {array.data(), static_cast<std::size_t>(array.size())};
}

// A prompt, copied in one pass, with room for what `max_tokens` will append.
std::vector<ts_sched::Token> prompt_of(const Ints& array, std::int64_t max_tokens) {
    constexpr std::int64_t kMostRoom = 1024;
    const auto tokens = tokens_in(array, "prompt");
    std::vector<ts_sched::Token> result;
    result.reserve(tokens.size() +
                   static_cast<std::size_t>(std::clamp(max_tokens, std::int64_t{0}, kMostRoom)));
    result.assign(tokens.begin(), tokens.end());
    return result;
}

// By hand: 256 of these a step through py::make_tuple cost more than the scheduler itself.
py::object tuple_of(const ts_sched::Output& output) {
    auto tuple = py::reinterpret_steal<py::object>(PyTuple_New(4));
    if (!tuple) {
        throw py::error_already_set();
    }
    const auto set = [&](Py_ssize_t i, PyObject* item) {
        if (item == nullptr) {
            throw py::error_already_set();
        }
        PyTuple_SET_ITEM(tuple.ptr(), i, item);
    };
    set(0, PyLong_FromLongLong(output.request));
    set(1, PyLong_FromLong(output.token));
    set(2, PyLong_FromLong(output.cached_tokens));
    set(3, output.finish ? PyUnicode_InternFromString(name_of(*output.finish).data()) : Py_NewRef(Py_None));
    return tuple;
}

struct PyPlan {
    ts_sched::StepId step;
    Ints rows;
    Ints tokens;
    Ints pages;
    Ints states;
    std::vector<std::pair<ts_sched::SlotId, ts_sched::RequestId>> admits;
    std::vector<ts_sched::SlotId> releases;
};

std::optional<PyPlan> plan(ts_sched::Scheduler& scheduler) {
    const ts_sched::StepPlan* step = scheduler.plan();
    if (step == nullptr) {
        return std::nullopt;
    }
    PyPlan result{step->step,
                  matrix_of<4>(step->rows),
                  vector_of(step->tokens),
                  matrix_of<4>(step->pages),
                  matrix_of<5>(step->states),
                  {},
                  step->releases};
    for (const auto& admission : step->admits) {
        result.admits.emplace_back(admission.slot, admission.request);
    }
    return result;
}

py::bytes bytes_of(const std::string& text) { return {text.data(), text.size()}; }

template <class T>
py::bytes bytes_of(std::span<const T> values) {
    return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

using Frames = std::tuple<py::bytes, py::bytes, py::bytes, py::bytes, py::bytes>;

std::optional<Frames> plan_frames(ts_sched::Scheduler& scheduler) {
    const ts_sched::StepPlan* step = scheduler.plan();
    if (step == nullptr) {
        return std::nullopt;
    }
    const auto rows = std::span(step->rows).subspan(step->implied);
    return Frames{bytes_of(step->message), bytes_of(rows), bytes_of(std::span(step->tokens)),
                  bytes_of(std::span(step->pages)), bytes_of(std::span(step->states))};
}

[[noreturn]] void raise(const char* name, const std::string& code, const std::string& message) {
    const auto type = py::module_::import("ts_scheduler.errors").attr(name);
    const auto raised = type(code, message);
    PyErr_SetObject(type.ptr(), raised.ptr());
    throw py::error_already_set();
}

std::span<const ts_sched::Output> settled(ts_sched::Scheduler& scheduler, ts_sched::StepId step,
                                          const py::object& tokens, std::int64_t duration_ns,
                                          const std::vector<ts_sched::Position>& accepted) {
    const Ints array = ints_of(tokens, "tokens");
    const auto result =
        scheduler.settle(step, tokens_in(array, "tokens"), std::chrono::nanoseconds(duration_ns), accepted);
    if (const auto* error = std::get_if<ts_sched::SettleError>(&result)) {
        raise("SettleError", std::string(name_of(error->code)), error->message);
    }
    return std::get<std::span<const ts_sched::Output>>(result);
}

py::list settle(ts_sched::Scheduler& scheduler, ts_sched::StepId step, const py::object& tokens,
                std::int64_t duration_ns, const std::vector<ts_sched::Position>& accepted) {
    const auto outputs = settled(scheduler, step, tokens, duration_ns, accepted);
    py::list result(outputs.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        PyList_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i), tuple_of(outputs[i]).release().ptr());
    }
    return result;
}

using Ids = std::vector<ts_sched::RequestId>;

// The outputs as one encoded TokenBatch (empty for none), who has finished, and who failed.
std::tuple<py::bytes, Ids, Ids> settle_frames(ts_sched::Scheduler& scheduler, ts_sched::StepId step,
                                              const py::object& tokens, std::int64_t duration_ns,
                                              const std::vector<ts_sched::Position>& accepted) {
    const auto outputs = settled(scheduler, step, tokens, duration_ns, accepted);
    Ids finished;
    Ids unusable;
    for (const ts_sched::Output& output : outputs) {
        if (output.finish) {
            (*output.finish == ts_sched::FinishReason::unusable ? unusable : finished)
                .push_back(output.request);
        }
    }
    thread_local std::string message;  // keeps its capacity from step to step
    message.clear();
    if (outputs.size() > unusable.size()) {
        encode_outputs(outputs, message);
    }
    return {bytes_of(message), std::move(finished), std::move(unusable)};
}

ts_sched::Salt salt_of(std::string_view bytes) {
    ts_sched::Salt salt;
    if (bytes.size() > sizeof salt) {
        throw py::value_error("cache_salt has " + std::to_string(bytes.size()) +
                              " bytes; pass at most 16, a digest of the tenant's name");
    }
    std::memcpy(&salt, bytes.data(), bytes.size());
    return salt;
}

std::optional<ts_sched::Rejection> submit(ts_sched::Scheduler& scheduler, ts_sched::RequestId request_id,
                                          const py::object& prompt, std::int64_t max_tokens,
                                          std::vector<std::int64_t> stop_token_ids, int priority,
                                          ts_sched::UserId user, bool session, bool send, bool receive,
                                          const py::bytes& cache_salt, const py::bytes& sampling) {
    return scheduler.submit({.id = request_id,
                             .prompt = prompt_of(ints_of(prompt, "prompt"), max_tokens),
                             .max_tokens = max_tokens,
                             .stop_tokens = std::move(stop_token_ids),
                             .priority = priority,
                             .user = user,
                             .session = session,
                             .send = send,
                             .receive = receive,
                             .cache_salt = salt_of(cache_salt),
                             .sampling = sampling});
}

struct PyTransfer {
    ts_sched::TransferId id;
    std::string kind;
    ts_sched::RequestId request;
    ts_sched::Position tokens;
    Ints pages;
};

std::vector<PyTransfer> transfers(ts_sched::Scheduler& scheduler) {
    std::vector<PyTransfer> result;
    for (const ts_sched::Transfer& transfer : scheduler.transfers()) {
        result.push_back({transfer.id, std::string(name_of(transfer.kind)), transfer.request, transfer.tokens,
                          matrix_of<2>(transfer.pages)});
    }
    return result;
}

void end_transfer(ts_sched::Scheduler& scheduler, ts_sched::TransferId id, bool arrived) {
    if (const auto error = scheduler.end_transfer(id, arrived)) {
        raise("TransferError", std::string(name_of(error->code)), error->message);
    }
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() = "The scheduler's core: see _core.pyi.";
    bind_values(module);
    (void)Ints(0);  // finds numpy's API now, which the first request would otherwise wait for
    py::class_<PyPlan>(module, "Plan")
        .def_readonly("step", &PyPlan::step)
        .def_readonly("rows", &PyPlan::rows)
        .def_readonly("tokens", &PyPlan::tokens)
        .def_readonly("pages", &PyPlan::pages)
        .def_readonly("states", &PyPlan::states)
        .def_readonly("admits", &PyPlan::admits)
        .def_readonly("releases", &PyPlan::releases);
    py::class_<PyTransfer>(module, "Transfer")
        .def_readonly("id", &PyTransfer::id)
        .def_readonly("kind", &PyTransfer::kind)
        .def_readonly("request", &PyTransfer::request)
        .def_readonly("tokens", &PyTransfer::tokens)
        .def_readonly("pages", &PyTransfer::pages);
    py::class_<ts_sched::Scheduler>(module, "Scheduler")
        .def(py::init<const ts_sched::Config&>(), py::arg("config"))
        .def("submit", &submit, py::arg("request_id"), py::arg("prompt"), py::arg("max_tokens"),
             py::arg("stop_token_ids") = std::vector<std::int64_t>{}, py::kw_only(), py::arg("priority") = 0,
             py::arg("user") = 0, py::arg("session") = false, py::arg("send") = false,
             py::arg("receive") = false, py::arg("cache_salt") = py::bytes(),
             py::arg("sampling") = py::bytes())
        .def("abort", &ts_sched::Scheduler::abort, py::arg("request_id"))
        .def("plan", &plan)
        .def("plan_frames", &plan_frames)
        .def("settle", &settle, py::arg("step"), py::arg("tokens"), py::arg("duration_ns") = 0,
             py::arg("accepted") = std::vector<ts_sched::Position>{})
        .def("settle_frames", &settle_frames, py::arg("step"), py::arg("tokens"), py::arg("duration_ns") = 0,
             py::arg("accepted") = std::vector<ts_sched::Position>{})
        .def("transfers", &transfers)
        .def("end_transfer", &end_transfer, py::arg("transfer"), py::arg("arrived"))
        .def("step_cost", &ts_sched::Scheduler::step_cost)
        .def("stats", &ts_sched::Scheduler::stats)
        .def("idle", &ts_sched::Scheduler::idle)
        .def("snapshot", &ts_sched::Scheduler::snapshot);
    module.def("least_pages", &ts_sched::least_pages, py::arg("config"), py::arg("group"));
    module.def("transition_diagram", &ts_sched::transition_diagram);
    module.def("transition_table", &ts_sched::transition_table);
}
