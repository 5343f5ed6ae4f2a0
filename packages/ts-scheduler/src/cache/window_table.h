#pragma once

#include <deque>
#include <utility>
#include <vector>

#include "cache/attachments.h"
#include "cache/page.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// One request's pages of a window group: of the blocks from first() to end() - 1, sealed ones, then those it
// may still write. Grows at the end and shrinks at the front.
class WindowTable {
 public:
    using Node = PrefixIndex::Node;

    // Of a request whose first page is that of block `first`.
    explicit WindowTable(int first) : first_(first), announced_(first) {}
    WindowTable(WindowTable&&) noexcept = default;
    WindowTable& operator=(WindowTable&&) noexcept = delete;
    WindowTable(const WindowTable&) = delete;
    WindowTable& operator=(const WindowTable&) = delete;
    ~WindowTable();

    [[nodiscard]] int first() const { return first_; }
    [[nodiscard]] int end() const { return sealed() + static_cast<int>(open_.size()); }
    // The first block that is not sealed.
    [[nodiscard]] int sealed() const { return first_ + static_cast<int>(sealed_.size()); }
    [[nodiscard]] PageId page(int block) const;
    [[nodiscard]] std::vector<PageId> pages() const;

    // Appends a prefix hit. Only before the first writable page.
    void append(Shared<Window> page);
    void append(Writable<Window> page) { open_.push_back(std::move(page)); }

    // The next block that the worker has to be told of, up to `end`.
    [[nodiscard]] int announced() const { return announced_; }
    void announce(int end) { announced_ = end; }

    // Seals the first block that may still be written, whose content has come back, and hangs it at its node.
    void publish(const SettleProof& proof, Attachments<Window>& attached, Node node, Retention retention);

    // The blocks before `first` have left the window. A step in flight may still hold their numbers: it
    // starts at what has settled or later, so it neither writes them nor looks back as far.
    void leave(int first);

 private:
    int first_;
    int announced_;
    std::deque<Shared<Window>> sealed_;
    std::deque<Writable<Window>> open_;
};

}  // namespace ts::scheduler
