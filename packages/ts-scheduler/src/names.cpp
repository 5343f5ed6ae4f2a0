#include "ts/scheduler/event.h"

namespace ts::scheduler {

std::string_view name_of(FinishReason reason) {
    switch (reason) {
        case FinishReason::stop:
            return "stop";
        case FinishReason::length:
            return "length";
        case FinishReason::abort:
            return "abort";
        case FinishReason::unusable:
            return "unusable";
    }
    return "";
}

std::string_view name_of(RejectionCode code) {
    switch (code) {
        case RejectionCode::duplicate:
            return "duplicate";
        case RejectionCode::empty_prompt:
            return "empty_prompt";
        case RejectionCode::too_long:
            return "too_long";
        case RejectionCode::never_fits:
            return "never_fits";
        case RejectionCode::queue_full:
            return "queue_full";
        case RejectionCode::invalid:
            return "invalid";
    }
    return "";
}

std::string_view name_of(SettleCode code) {
    switch (code) {
        case SettleCode::unknown_step:
            return "unknown_step";
        case SettleCode::out_of_order:
            return "out_of_order";
        case SettleCode::wrong_count:
            return "wrong_count";
        case SettleCode::wrong_accepted:
            return "wrong_accepted";
        case SettleCode::invalid_token:
            return "invalid_token";
        case SettleCode::invalid_duration:
            return "invalid_duration";
    }
    return "";
}

}  // namespace ts::scheduler
