#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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

namespace py = pybind11;
namespace ts_sched = ts::scheduler;

namespace {

using Ints = py::array_t<std::int32_t, py::array::c_style>;

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

// Copies: an array that came in a message frame need not be aligned.
std::vector<ts_sched::Token> tokens_of(const Ints& array, const char* field) {
    if (array.ndim() != 1) {
        throw py::value_error(std::string(field) + " has " + std::to_string(array.ndim()) +
                              " dimensions; pass an int32 array of one");
    }
    std::vector<ts_sched::Token> result(static_cast<std::size_t>(array.size()));
    if (!result.empty()) {
        std::memcpy(result.data(), array.data(), result.size() * sizeof(ts_sched::Token));
    }
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
    std::vector<std::pair<ts_sched::SlotId, ts_sched::RequestId>> admits;
    std::vector<ts_sched::SlotId> releases;
};

std::optional<PyPlan> plan(ts_sched::Scheduler& scheduler) {
    const ts_sched::StepPlan* step = scheduler.plan();
    if (step == nullptr) {
        return std::nullopt;
    }
    PyPlan result{
        step->step,    matrix_of<4>(step->rows), vector_of(step->tokens), matrix_of<2>(step->pages), {},
        step->releases};
    for (const auto& admission : step->admits) {
        result.admits.emplace_back(admission.slot, admission.request);
    }
    return result;
}

py::bytes bytes_of(const std::string& text) { return {text.data(), text.size()}; }

template <class T>
py::bytes bytes_of(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

using Frames = std::tuple<py::bytes, py::bytes, py::bytes, py::bytes>;

std::optional<Frames> plan_frames(ts_sched::Scheduler& scheduler) {
    const ts_sched::StepPlan* step = scheduler.plan();
    if (step == nullptr) {
        return std::nullopt;
    }
    return Frames{bytes_of(step->message), bytes_of(step->rows), bytes_of(step->tokens),
                  bytes_of(step->pages)};
}

std::span<const ts_sched::Output> settled(ts_sched::Scheduler& scheduler, ts_sched::StepId step,
                                          const Ints& tokens, std::int64_t duration_ns) {
    const auto result =
        scheduler.settle(step, tokens_of(tokens, "tokens"), std::chrono::nanoseconds(duration_ns));
    if (const auto* error = std::get_if<ts_sched::SettleError>(&result)) {
        const auto type = py::module_::import("ts_scheduler.errors").attr("SettleError");
        const auto raised = type(std::string(name_of(error->code)), error->message);
        PyErr_SetObject(type.ptr(), raised.ptr());
        throw py::error_already_set();
    }
    return std::get<std::span<const ts_sched::Output>>(result);
}

py::list settle(ts_sched::Scheduler& scheduler, ts_sched::StepId step, const Ints& tokens,
                std::int64_t duration_ns) {
    const auto outputs = settled(scheduler, step, tokens, duration_ns);
    py::list result(outputs.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        PyList_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i), tuple_of(outputs[i]).release().ptr());
    }
    return result;
}

using Ids = std::vector<ts_sched::RequestId>;

// The outputs as one encoded TokenBatch (empty for none), who has finished, and who failed.
std::tuple<py::bytes, Ids, Ids> settle_frames(ts_sched::Scheduler& scheduler, ts_sched::StepId step,
                                              const Ints& tokens, std::int64_t duration_ns) {
    const auto outputs = settled(scheduler, step, tokens, duration_ns);
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
                                          const Ints& prompt, std::int64_t max_tokens,
                                          std::vector<std::int64_t> stop_token_ids, int priority,
                                          ts_sched::UserId user, bool session, const py::bytes& cache_salt,
                                          const py::bytes& sampling) {
    return scheduler.submit({.id = request_id,
                             .prompt = tokens_of(prompt, "prompt"),
                             .max_tokens = max_tokens,
                             .stop_tokens = std::move(stop_token_ids),
                             .priority = priority,
                             .user = user,
                             .session = session,
                             .cache_salt = salt_of(cache_salt),
                             .sampling = sampling});
}

constexpr ts_sched::Config kDefaults;

void bind_config(py::module_& module) {
    py::class_<ts_sched::Config>(module, "Config")
        .def(py::init([](int page_size, int num_pages, int max_num_seqs, int max_model_len, int vocab_size,
                         int chunk_tokens, int max_queued, bool prefix_caching, int depth,
                         std::int64_t max_queued_tokens, int max_queued_per_user, int priority_tokens,
                         int tool_wait_steps, int new_prompt_wait_steps, double growth_room, double min_tps) {
                 return ts_sched::Config{.page_size = page_size,
                                         .num_pages = num_pages,
                                         .max_num_seqs = max_num_seqs,
                                         .max_model_len = max_model_len,
                                         .vocab_size = vocab_size,
                                         .chunk_tokens = chunk_tokens,
                                         .max_queued = max_queued,
                                         .prefix_caching = prefix_caching,
                                         .depth = depth,
                                         .max_queued_tokens = max_queued_tokens,
                                         .max_queued_per_user = max_queued_per_user,
                                         .priority_tokens = priority_tokens,
                                         .tool_wait_steps = tool_wait_steps,
                                         .new_prompt_wait_steps = new_prompt_wait_steps,
                                         .growth_room = growth_room,
                                         .min_tps = min_tps};
             }),
             py::kw_only(), py::arg("page_size"), py::arg("num_pages"), py::arg("max_num_seqs"),
             py::arg("max_model_len"), py::arg("vocab_size"), py::arg("chunk_tokens"), py::arg("max_queued"),
             py::arg("prefix_caching") = true, py::arg("depth") = 2, py::arg("max_queued_tokens") = 0,
             py::arg("max_queued_per_user") = 0, py::arg("priority_tokens") = kDefaults.priority_tokens,
             py::arg("tool_wait_steps") = kDefaults.tool_wait_steps,
             py::arg("new_prompt_wait_steps") = kDefaults.new_prompt_wait_steps,
             py::arg("growth_room") = kDefaults.growth_room, py::arg("min_tps") = 0.0)
        .def_readonly("page_size", &ts_sched::Config::page_size)
        .def_readonly("num_pages", &ts_sched::Config::num_pages)
        .def_readonly("max_num_seqs", &ts_sched::Config::max_num_seqs)
        .def_readonly("max_model_len", &ts_sched::Config::max_model_len)
        .def_readonly("vocab_size", &ts_sched::Config::vocab_size)
        .def_readonly("chunk_tokens", &ts_sched::Config::chunk_tokens)
        .def_readonly("max_queued", &ts_sched::Config::max_queued)
        .def_readonly("prefix_caching", &ts_sched::Config::prefix_caching)
        .def_readonly("depth", &ts_sched::Config::depth)
        .def_readonly("max_queued_tokens", &ts_sched::Config::max_queued_tokens)
        .def_readonly("max_queued_per_user", &ts_sched::Config::max_queued_per_user)
        .def_readonly("priority_tokens", &ts_sched::Config::priority_tokens)
        .def_readonly("tool_wait_steps", &ts_sched::Config::tool_wait_steps)
        .def_readonly("new_prompt_wait_steps", &ts_sched::Config::new_prompt_wait_steps)
        .def_readonly("growth_room", &ts_sched::Config::growth_room)
        .def_readonly("min_tps", &ts_sched::Config::min_tps);
}

void bind_values(py::module_& module) {
    py::class_<ts_sched::Rejection>(module, "Rejection")
        .def_property_readonly(
            "code", [](const ts_sched::Rejection& self) { return std::string(name_of(self.code)); })
        .def_readonly("message", &ts_sched::Rejection::message)
        .def("__repr__", [](const ts_sched::Rejection& self) {
            return "Rejection(" + std::string(name_of(self.code)) + ": " + self.message + ")";
        });
    py::class_<PyPlan>(module, "Plan")
        .def_readonly("step", &PyPlan::step)
        .def_readonly("rows", &PyPlan::rows)
        .def_readonly("tokens", &PyPlan::tokens)
        .def_readonly("pages", &PyPlan::pages)
        .def_readonly("admits", &PyPlan::admits)
        .def_readonly("releases", &PyPlan::releases);
    py::class_<ts_sched::Stats>(module, "Stats")
        .def_readonly("requests_running", &ts_sched::Stats::requests_running)
        .def_readonly("requests_waiting", &ts_sched::Stats::requests_waiting)
        .def_readonly("pages_used", &ts_sched::Stats::pages_used)
        .def_readonly("pages_total", &ts_sched::Stats::pages_total)
        .def_readonly("pages_cached", &ts_sched::Stats::pages_cached)
        .def_readonly("tokens_waiting", &ts_sched::Stats::tokens_waiting)
        .def_readonly("prefix_queries", &ts_sched::Stats::prefix_queries)
        .def_readonly("prefix_hits", &ts_sched::Stats::prefix_hits)
        .def_readonly("prefix_evictions", &ts_sched::Stats::prefix_evictions)
        .def_readonly("prefix_query_tokens", &ts_sched::Stats::prefix_query_tokens)
        .def_readonly("prefix_hit_tokens", &ts_sched::Stats::prefix_hit_tokens)
        .def_readonly("prefill_tokens", &ts_sched::Stats::prefill_tokens)
        .def_readonly("decode_tokens", &ts_sched::Stats::decode_tokens)
        .def_readonly("preemptions", &ts_sched::Stats::preemptions)
        .def_readonly("steps", &ts_sched::Stats::steps);
}

void bind_snapshot(py::module_& module) {
    py::class_<ts_sched::RequestSnapshot>(module, "RequestSnapshot")
        .def_readonly("id", &ts_sched::RequestSnapshot::id)
        .def_property_readonly("state",
                               [](const ts_sched::RequestSnapshot& self) { return std::string(self.state); })
        .def_readonly("slot", &ts_sched::RequestSnapshot::slot)
        .def_readonly("pages", &ts_sched::RequestSnapshot::pages)
        .def_readonly("planned", &ts_sched::RequestSnapshot::planned)
        .def_readonly("settled", &ts_sched::RequestSnapshot::settled)
        .def_readonly("tokens", &ts_sched::RequestSnapshot::tokens)
        .def_readonly("retention", &ts_sched::RequestSnapshot::retention);
    py::class_<ts_sched::Snapshot>(module, "Snapshot")
        .def_readonly("requests", &ts_sched::Snapshot::requests)
        .def_readonly("free", &ts_sched::Snapshot::free)
        .def_readonly("cached", &ts_sched::Snapshot::cached)
        .def_readonly("idle", &ts_sched::Snapshot::idle)
        .def_readonly("idle_retention", &ts_sched::Snapshot::idle_retention)
        .def_readonly("line", &ts_sched::Snapshot::line)
        .def_readonly("references", &ts_sched::Snapshot::references)
        .def_readonly("steps_in_flight", &ts_sched::Snapshot::steps_in_flight);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() = "The scheduler's core: see _core.pyi.";
    bind_config(module);
    bind_values(module);
    bind_snapshot(module);
    py::class_<ts_sched::Scheduler>(module, "Scheduler")
        .def(py::init<const ts_sched::Config&>(), py::arg("config"))
        .def("submit", &submit, py::arg("request_id"), py::arg("prompt"), py::arg("max_tokens"),
             py::arg("stop_token_ids") = std::vector<std::int64_t>{}, py::kw_only(), py::arg("priority") = 0,
             py::arg("user") = 0, py::arg("session") = false, py::arg("cache_salt") = py::bytes(),
             py::arg("sampling") = py::bytes())
        .def("abort", &ts_sched::Scheduler::abort, py::arg("request_id"))
        .def("plan", &plan)
        .def("plan_frames", &plan_frames)
        .def("settle", &settle, py::arg("step"), py::arg("tokens"), py::arg("duration_ns") = 0)
        .def("settle_frames", &settle_frames, py::arg("step"), py::arg("tokens"), py::arg("duration_ns") = 0)
        .def("step_cost", &ts_sched::Scheduler::step_cost)
        .def("stats", &ts_sched::Scheduler::stats)
        .def("idle", &ts_sched::Scheduler::idle)
        .def("snapshot", &ts_sched::Scheduler::snapshot);
    module.def("transition_diagram", &ts_sched::transition_diagram);
}
