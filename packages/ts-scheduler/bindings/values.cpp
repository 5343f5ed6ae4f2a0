#include "values.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "ts/scheduler/scheduler.h"

namespace py = pybind11;
namespace ts_sched = ts::scheduler;

namespace {

const ts_sched::Config kDefaults;

ts_sched::CacheGroup::Kind kind_of(const std::string& name) {
    if (name == "window") {
        return ts_sched::CacheGroup::Kind::window;
    }
    if (name == "state") {
        return ts_sched::CacheGroup::Kind::state;
    }
    throw py::value_error("a group's kind is \"" + name + "\"; it is \"window\" or \"state\"");
}

void bind_group(py::module_& module) {
    py::class_<ts_sched::CacheGroup>(module, "CacheGroup")
        .def(py::init([](const std::string& kind, int num_pages, int window, int checkpoint_blocks) {
                 return ts_sched::CacheGroup{.kind = kind_of(kind),
                                             .num_pages = num_pages,
                                             .window = window,
                                             .checkpoint_blocks = checkpoint_blocks};
             }),
             py::kw_only(), py::arg("kind"), py::arg("num_pages"), py::arg("window") = 0,
             py::arg("checkpoint_blocks") = 0)
        .def_property_readonly("kind",
                               [](const ts_sched::CacheGroup& self) {
                                   return self.kind == ts_sched::CacheGroup::Kind::window ? "window"
                                                                                          : "state";
                               })
        .def_readonly("num_pages", &ts_sched::CacheGroup::num_pages)
        .def_readonly("window", &ts_sched::CacheGroup::window)
        .def_readonly("checkpoint_blocks", &ts_sched::CacheGroup::checkpoint_blocks);
}

void bind_config(py::module_& module) {
    py::class_<ts_sched::Config>(module, "Config")
        .def(py::init([](int page_size, int num_pages, int max_num_seqs, int max_model_len, int vocab_size,
                         int chunk_tokens, int max_queued, bool prefix_caching, int depth,
                         std::int64_t max_queued_tokens, int max_queued_per_user, int priority_tokens,
                         int tool_wait_steps, int new_prompt_wait_steps, double growth_room, int host_pages,
                         int write_back_pages, double min_tps, int draft_tokens,
                         std::vector<ts_sched::CacheGroup> groups) {
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
                                         .host_pages = host_pages,
                                         .write_back_pages = write_back_pages,
                                         .min_tps = min_tps,
                                         .draft_tokens = draft_tokens,

                                         .groups = std::move(groups)};
             }),
             py::kw_only(), py::arg("page_size"), py::arg("num_pages"), py::arg("max_num_seqs"),
             py::arg("max_model_len"), py::arg("vocab_size"), py::arg("chunk_tokens"), py::arg("max_queued"),
             py::arg("prefix_caching") = true, py::arg("depth") = 2, py::arg("max_queued_tokens") = 0,
             py::arg("max_queued_per_user") = 0, py::arg("priority_tokens") = kDefaults.priority_tokens,
             py::arg("tool_wait_steps") = kDefaults.tool_wait_steps,
             py::arg("new_prompt_wait_steps") = kDefaults.new_prompt_wait_steps,
             py::arg("growth_room") = kDefaults.growth_room, py::arg("host_pages") = 0,
             py::arg("write_back_pages") = kDefaults.write_back_pages, py::arg("min_tps") = 0.0,
             py::arg("draft_tokens") = 0, py::arg("groups") = std::vector<ts_sched::CacheGroup>{})
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
        .def_readonly("host_pages", &ts_sched::Config::host_pages)
        .def_readonly("write_back_pages", &ts_sched::Config::write_back_pages)
        .def_readonly("min_tps", &ts_sched::Config::min_tps)
        .def_readonly("draft_tokens", &ts_sched::Config::draft_tokens)
        .def_readonly("groups", &ts_sched::Config::groups);
}

void bind_answers(py::module_& module) {
    py::class_<ts_sched::Rejection>(module, "Rejection")
        .def_property_readonly(
            "code", [](const ts_sched::Rejection& self) { return std::string(name_of(self.code)); })
        .def_readonly("message", &ts_sched::Rejection::message)
        .def("__repr__", [](const ts_sched::Rejection& self) {
            return "Rejection(" + std::string(name_of(self.code)) + ": " + self.message + ")";
        });
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
        .def_readonly("draft_tokens", &ts_sched::Stats::draft_tokens)
        .def_readonly("accepted_draft_tokens", &ts_sched::Stats::accepted_draft_tokens)
        .def_readonly("preemptions", &ts_sched::Stats::preemptions)
        .def_readonly("steps", &ts_sched::Stats::steps)
        .def_readonly("host_pages_used", &ts_sched::Stats::host_pages_used)
        .def_readonly("host_hit_tokens", &ts_sched::Stats::host_hit_tokens)
        .def_readonly("host_stored_pages", &ts_sched::Stats::host_stored_pages)
        .def_readonly("host_loaded_pages", &ts_sched::Stats::host_loaded_pages)
        .def_readonly("transfers_failed", &ts_sched::Stats::transfers_failed);
}

void bind_snapshot(py::module_& module) {
    py::class_<ts_sched::RequestGroupSnapshot>(module, "RequestGroupSnapshot")
        .def_readonly("first", &ts_sched::RequestGroupSnapshot::first)
        .def_readonly("pages", &ts_sched::RequestGroupSnapshot::pages)
        .def_readonly("source", &ts_sched::RequestGroupSnapshot::source)
        .def_readonly("checkpoints", &ts_sched::RequestGroupSnapshot::checkpoints);
    py::class_<ts_sched::GroupSnapshot>(module, "GroupSnapshot")
        .def_readonly("free", &ts_sched::GroupSnapshot::free)
        .def_readonly("attached", &ts_sched::GroupSnapshot::attached)
        .def_readonly("idle", &ts_sched::GroupSnapshot::idle)
        .def_readonly("references", &ts_sched::GroupSnapshot::references);
    py::class_<ts_sched::RequestSnapshot>(module, "RequestSnapshot")
        .def_readonly("id", &ts_sched::RequestSnapshot::id)
        .def_property_readonly("state",
                               [](const ts_sched::RequestSnapshot& self) { return std::string(self.state); })
        .def_readonly("slot", &ts_sched::RequestSnapshot::slot)
        .def_readonly("pages", &ts_sched::RequestSnapshot::pages)
        .def_readonly("planned", &ts_sched::RequestSnapshot::planned)
        .def_readonly("settled", &ts_sched::RequestSnapshot::settled)
        .def_readonly("tokens", &ts_sched::RequestSnapshot::tokens)
        .def_readonly("retention", &ts_sched::RequestSnapshot::retention)
        .def_readonly("groups", &ts_sched::RequestSnapshot::groups);
    py::class_<ts_sched::Snapshot>(module, "Snapshot")
        .def_readonly("requests", &ts_sched::Snapshot::requests)
        .def_readonly("free", &ts_sched::Snapshot::free)
        .def_readonly("cached", &ts_sched::Snapshot::cached)
        .def_readonly("idle", &ts_sched::Snapshot::idle)
        .def_readonly("idle_retention", &ts_sched::Snapshot::idle_retention)
        .def_readonly("line", &ts_sched::Snapshot::line)
        .def_readonly("references", &ts_sched::Snapshot::references)
        .def_readonly("host_order", &ts_sched::Snapshot::host_order)
        .def_readonly("host_references", &ts_sched::Snapshot::host_references)
        .def_readonly("transfers", &ts_sched::Snapshot::transfers)
        .def_readonly("steps_in_flight", &ts_sched::Snapshot::steps_in_flight)
        .def_readonly("groups", &ts_sched::Snapshot::groups);
}

}  // namespace

void bind_values(py::module_& module) {
    bind_group(module);
    bind_config(module);
    bind_answers(module);
    bind_snapshot(module);
}
