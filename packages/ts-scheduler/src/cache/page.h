#pragma once

#include <utility>

#include "cache/memory.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

template <class Memory>
class Pool;
template <class Memory>
class Shared;

// The exclusive right to write one page. Only Pool::allocate() makes one; it gives the page back when it
// dies.
template <class Memory>
class [[nodiscard]] Writable {
 public:
    Writable(Writable&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
    Writable& operator=(Writable&& other) noexcept {
        std::swap(pool_, other.pool_);
        std::swap(id_, other.id_);
        return *this;
    }
    Writable(const Writable&) = delete;
    Writable& operator=(const Writable&) = delete;
    ~Writable() {
        if (pool_ != nullptr) {
            give_back();
        }
    }

    [[nodiscard]] PageId id() const { return id_; }

    // Ends writing for good: from here on the page is read-only and may be shared.
    template <EndsWritingOf<Memory> Proof>
    [[nodiscard]] Shared<Memory> seal(const Proof& /*proof*/) && {
        return end_writing();
    }

 private:
    friend class Pool<Memory>;
    Writable(Pool<Memory>& pool, PageId id) : pool_(&pool), id_(id) {}
    [[nodiscard]] Shared<Memory> end_writing();
    void give_back() noexcept;

    Pool<Memory>* pool_;
    PageId id_;
};

// A counted right to read one page. Only Writable::seal makes the first; share() makes more.
template <class Memory>
class [[nodiscard]] Shared {
 public:
    Shared(Shared&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
    Shared& operator=(Shared&& other) noexcept {
        std::swap(pool_, other.pool_);
        std::swap(id_, other.id_);
        return *this;
    }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    ~Shared() {
        if (pool_ != nullptr) {
            give_back();
        }
    }

    [[nodiscard]] PageId id() const { return id_; }
    [[nodiscard]] Shared share() const;

 private:
    friend class Writable<Memory>;
    Shared(Pool<Memory>& pool, PageId id) : pool_(&pool), id_(id) {}
    void give_back() noexcept;

    Pool<Memory>* pool_;
    PageId id_;
};

using WritablePage = Writable<Device>;
using SharedPage = Shared<Device>;

}  // namespace ts::scheduler
