#include "wire/messages.h"

#include <algorithm>

#include "ts/scheduler/wire.h"
#include "wire/packer.h"

namespace ts::scheduler {
namespace {

// How many of the outputs, from the first, are one request's.
std::size_t of_one_request(std::span<const Output> outputs) {
    std::size_t count = 1;
    while (count < outputs.size() && outputs[count].request == outputs.front().request) {
        ++count;
    }
    return count;
}

// A TokenOutput.
void encode_request(std::span<const Output> outputs, Packer& pack) {
    const Output& last = outputs.back();
    pack.array(4);
    pack.integer(last.request);
    pack.array(outputs.size());
    for (const Output& output : outputs) {
        pack.integer(output.token);
    }
    pack.integer(last.cached_tokens);
    if (last.finish) {
        pack.name(name_of(*last.finish));
    } else {
        pack.nil();
    }
}

}  // namespace

void encode_plan(const StepPlan& plan, const RequestBook& book, std::string& out) {
    out.clear();
    Packer pack(out);
    pack.array(5);
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
    pack.binary(plan.decodes);
}

void encode_outputs(std::span<const Output> outputs, std::string& out) {
    out.clear();
    Packer pack(out);
    pack.array(2);
    pack.name("tokens");
    std::size_t requests = 0;
    for (auto rest = outputs; !rest.empty(); rest = rest.subspan(of_one_request(rest))) {
        requests += rest.front().finish == FinishReason::unusable ? 0 : 1;
    }
    pack.array(requests);
    for (auto rest = outputs; !rest.empty();) {
        const auto own = rest.first(of_one_request(rest));
        rest = rest.subspan(own.size());
        if (own.front().finish != FinishReason::unusable) {
            encode_request(own, pack);
        }
    }
}

}  // namespace ts::scheduler
