#include "ts/scheduler/event.h"
#include "ts/scheduler/transfer.h"

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
        case FinishReason::sent:
            return "sent";
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

std::string_view name_of(TransferKind kind) {
    switch (kind) {
        case TransferKind::store:
            return "store";
        case TransferKind::load:
            return "load";
        case TransferKind::receive:
            return "receive";
        case TransferKind::send:
            return "send";
    }
    return "";
}

std::string_view name_of(TransferCode code) {
    switch (code) {
        case TransferCode::unknown_transfer:
            return "unknown_transfer";
    }
    return "";
}

}  // namespace ts::scheduler
