#include "wire/messages.h"

#include <algorithm>

#include "ts/scheduler/wire.h"
#include "wire/packer.h"

namespace ts::scheduler {

void encode_plan(const StepPlan& plan, const RequestBook& book, std::string& out) {
    out.clear();
    Packer pack(out);
    pack.array(4);
    pack.name("plan");
    pack.integer(plan.step);
    pack.array(plan.admits.size());
    for (const Admission& admission : plan.admits) {
        pack.array(2);
        pack.integer(admission.slot);
        const std::string& sampling = book.find(admission.request)->sampling;
        if (sampling.empty()) {
            pack.array(0);
        } else {
            pack.packed(sampling);
        }
    }
    pack.array(plan.releases.size());
    for (const SlotId slot : plan.releases) {
        pack.integer(slot);
    }
}

void encode_outputs(std::span<const Output> outputs, std::string& out) {
    out.clear();
    Packer pack(out);
    pack.array(2);
    pack.name("tokens");
    const auto unusable = std::ranges::count(outputs, FinishReason::unusable, &Output::finish);
    pack.array(outputs.size() - static_cast<std::size_t>(unusable));
    for (const Output& output : outputs) {
        if (output.finish == FinishReason::unusable) {
            continue;
        }
        pack.array(4);
        pack.integer(output.request);
        pack.array(1);
        pack.integer(output.token);
        pack.integer(output.cached_tokens);
        if (output.finish) {
            pack.name(name_of(*output.finish));
        } else {
            pack.nil();
        }
    }
}

}  // namespace ts::scheduler
