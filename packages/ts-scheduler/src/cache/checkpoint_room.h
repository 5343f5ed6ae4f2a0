#pragma once

#include <optional>
#include <utility>

namespace ts::scheduler {

class CheckpointRoom;

// One of the pages that checkpoints in flight may take; gives the place back when it dies. Only
// CheckpointRoom::take() makes one.
class [[nodiscard]] CheckpointPlace {
 public:
    CheckpointPlace(CheckpointPlace&& other) noexcept : room_(std::exchange(other.room_, nullptr)) {}
    CheckpointPlace& operator=(CheckpointPlace&& other) noexcept {
        std::swap(room_, other.room_);
        return *this;
    }
    CheckpointPlace(const CheckpointPlace&) = delete;
    CheckpointPlace& operator=(const CheckpointPlace&) = delete;
    ~CheckpointPlace();

 private:
    friend class CheckpointRoom;
    explicit CheckpointPlace(CheckpointRoom& room) : room_(&room) {}

    CheckpointRoom* room_;
};

// How many checkpoints may be in flight, so that what is left always suffices for the requests themselves.
class CheckpointRoom {
 public:
    explicit CheckpointRoom(int places) : places_(places) {}

    [[nodiscard]] std::optional<CheckpointPlace> take() {
        if (places_ == 0) {
            return std::nullopt;
        }
        --places_;
        return CheckpointPlace(*this);
    }

 private:
    friend class CheckpointPlace;
    int places_;
};

inline CheckpointPlace::~CheckpointPlace() {
    if (room_ != nullptr) {
        ++room_->places_;
    }
}

}  // namespace ts::scheduler
