#pragma once

#include <optional>
#include <utility>

#include "ts/scheduler/types.h"

namespace ts::scheduler {

class PagePool;
class SharedPage;
class StepLedger;

// Says that the step which wrote a page has come back. Only the ledger of steps makes one, when a step
// settles.
class SettleProof {
 public:
    SettleProof(const SettleProof&) = delete;
    SettleProof& operator=(const SettleProof&) = delete;
    SettleProof(SettleProof&&) = delete;
    SettleProof& operator=(SettleProof&&) = delete;
    ~SettleProof() = default;

 private:
    friend class StepLedger;
    SettleProof() = default;
};

// The exclusive right to write one page. Only PagePool::allocate() makes one; it gives the page back when it
// dies.
class [[nodiscard]] WritablePage {
 public:
    WritablePage(WritablePage&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
    WritablePage& operator=(WritablePage&& other) noexcept {
        std::swap(pool_, other.pool_);
        std::swap(id_, other.id_);
        return *this;
    }
    WritablePage(const WritablePage&) = delete;
    WritablePage& operator=(const WritablePage&) = delete;
    ~WritablePage() {
        if (pool_ != nullptr) {
            give_back();
        }
    }

    [[nodiscard]] PageId id() const { return id_; }

    // Ends writing for good: from here on the page is read-only and may be shared.
    [[nodiscard]] SharedPage seal(const SettleProof& proof) &&;

 private:
    friend class PagePool;
    WritablePage(PagePool& pool, PageId id) : pool_(&pool), id_(id) {}
    void give_back() noexcept;

    PagePool* pool_;
    PageId id_;
};

// A counted right to read one page. Only WritablePage::seal makes the first; share() makes more.
class [[nodiscard]] SharedPage {
 public:
    SharedPage(SharedPage&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
    SharedPage& operator=(SharedPage&& other) noexcept {
        std::swap(pool_, other.pool_);
        std::swap(id_, other.id_);
        return *this;
    }
    SharedPage(const SharedPage&) = delete;
    SharedPage& operator=(const SharedPage&) = delete;
    ~SharedPage() {
        if (pool_ != nullptr) {
            give_back();
        }
    }

    [[nodiscard]] PageId id() const { return id_; }
    [[nodiscard]] SharedPage share() const;

 private:
    friend class WritablePage;
    SharedPage(PagePool& pool, PageId id) : pool_(&pool), id_(id) {}
    void give_back() noexcept;

    PagePool* pool_;
    PageId id_;
};

}  // namespace ts::scheduler
