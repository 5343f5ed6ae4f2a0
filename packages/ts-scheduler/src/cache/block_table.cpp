#include "cache/block_table.h"

#include "invariant.h"

namespace ts::scheduler {

BlockTable::~BlockTable() {
    while (!open_.empty()) {
        open_.pop_back();
    }
    while (!sealed_.empty()) {
        sealed_.pop_back();
        if (!aliases_.empty() && aliases_.back().block == std::ssize(sealed_)) {
            aliases_.pop_back();
        }
    }
}

PageId BlockTable::page(int block) const {
    const auto i = static_cast<std::size_t>(block);
    return i < sealed_.size() ? sealed_[i].id() : open_[first_open_ + i - sealed_.size()].id();
}

std::vector<PageId> BlockTable::alias_pages() const {
    std::vector<PageId> result;
    result.reserve(aliases_.size());
    for (const Alias& alias : aliases_) {
        result.push_back(alias.page.id());
    }
    return result;
}

void BlockTable::append(PrefixIndex::Node node, SharedPage page) {
    invariant(open_.empty(), "prefix hits come before writable pages");
    sealed_.push_back(std::move(page));
    tip_ = node;
}

WritablePage& BlockTable::first_open() {
    invariant(first_open_ < open_.size(), "a complete block has a page");
    return open_[first_open_++];
}

void BlockTable::list(SharedPage page, PrefixIndex& index, const Sequence& sequence, Retention retention) {
    const int block = sealed();
    auto published = index.publish(sequence.key(block, tip_), page, retention);
    tip_ = published.node;
    if (published.alias) {
        aliases_.push_back({block, std::move(*published.alias)});
    }
    sealed_.push_back(std::move(page));
}

void BlockTable::forget_sealed() {
    if (first_open_ == open_.size()) {
        open_.clear();
        first_open_ = 0;
    }
}

}  // namespace ts::scheduler
