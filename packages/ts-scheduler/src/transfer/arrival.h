#pragma once

#include <utility>
#include <vector>

#include "cache/block_table.h"
#include "cache/page.h"
#include "ts/scheduler/types.h"

namespace ts::scheduler {

// The ticket of a transfer that fills pages of a request: from host pages, which it pins, or from a peer.
// While it lasts nobody can read the pages: they leave the ticket only against a proof that it has ended.
class [[nodiscard]] Arrival {
 public:
    // `until`: tokens whose pages are filled in the end. `rest`: pages for what the request computes itself.
    Arrival(Position until, std::vector<WritablePage> pages, std::vector<WritablePage> rest,
            std::vector<Shared<Host>> sources)
        : until_(until), pages_(std::move(pages)), rest_(std::move(rest)), sources_(std::move(sources)) {}

    Arrival(Arrival&&) = default;
    Arrival& operator=(Arrival&&) = default;
    Arrival(const Arrival&) = delete;
    Arrival& operator=(const Arrival&) = delete;
    ~Arrival() = default;

    [[nodiscard]] Position until() const { return until_; }

    // All pages, to the request whose prefix they continue.
    void end(const TransferProof& /*proof*/, BlockTable& blocks) && {
        for (WritablePage& page : pages_) {
            blocks.append(std::move(page));
        }
        for (WritablePage& page : rest_) {
            blocks.append(std::move(page));
        }
        pages_.clear();
        rest_.clear();
        sources_.clear();
    }

    // Of a snapshot.
    [[nodiscard]] std::vector<PageId> page_ids() const { return ids_of(pages_); }
    [[nodiscard]] std::vector<PageId> rest_ids() const { return ids_of(rest_); }
    [[nodiscard]] std::vector<PageId> source_ids() const { return ids_of(sources_); }

 private:
    template <class Page>
    static std::vector<PageId> ids_of(const std::vector<Page>& pages) {
        std::vector<PageId> result;
        result.reserve(pages.size());
        for (const Page& page : pages) {
            result.push_back(page.id());
        }
        return result;
    }

    Position until_;
    std::vector<WritablePage> pages_;
    std::vector<WritablePage> rest_;
    std::vector<Shared<Host>> sources_;
};

}  // namespace ts::scheduler
