#include "cache/window_table.h"

#include "invariant.h"

namespace ts::scheduler {

// The first block first: a later prefix does without it, so it may be evicted before the others.
WindowTable::~WindowTable() { leave(end()); }

PageId WindowTable::page(int block) const {
    const auto i = static_cast<std::size_t>(block - first_);
    return i < sealed_.size() ? sealed_[i].id() : open_[i - sealed_.size()].id();
}

std::vector<PageId> WindowTable::pages() const {
    std::vector<PageId> result;
    for (int block = first_; block < end(); ++block) {
        result.push_back(page(block));
    }
    return result;
}

void WindowTable::append(Shared<Window> page) {
    invariant(open_.empty(), "prefix hits come before writable pages");
    sealed_.push_back(std::move(page));
}

void WindowTable::publish(const SettleProof& proof, Attachments<Window>& attached, Node node,
                          Retention retention) {
    invariant(!open_.empty(), "a complete block has a page");
    Shared<Window> page = std::move(open_.front()).seal(proof);
    open_.pop_front();
    attached.attach(node, page, retention);
    sealed_.push_back(std::move(page));
}

void WindowTable::leave(int first) {
    while (first_ < first) {
        if (sealed_.empty()) {  // without prefix reuse nothing is sealed
            invariant(!open_.empty(), "a block leaves after it has come");
            open_.pop_front();
        } else {
            sealed_.pop_front();
        }
        ++first_;
    }
}

}  // namespace ts::scheduler
