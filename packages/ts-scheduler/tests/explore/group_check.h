#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "scenario.h"

namespace explore {

// What one row does with the pages of one group, as the worker knows them.
struct GroupUse {
    RequestId request;
    std::size_t group;  // index into Config::groups
    Position start;     // the least that it can be, where drafts are in flight before it
    std::vector<PageId> reads;
    std::vector<PageId> writes;
    int first = 0;                // of a window group: the block of the first page
    std::vector<PageId> pages{};  // of a window group: all that the row may touch
};

// The groups beside full attention, as a worker sees them, and what must always hold for their pages.
class GroupCheck {
 public:
    explicit GroupCheck(const Config& config) : config_(&config) {}

    // Takes a plan as a worker does. What its rows read and write, checked for being there.
    [[nodiscard]] std::vector<GroupUse> take(const StepPlan& plan, const std::vector<Position>& starts) {
        for (const Admission& admission : plan.admits) {
            slots_[admission.slot] = Slot{admission.request, {}, false};
        }
        for (const PageEntry& entry : plan.pages) {
            if (entry.group > 0) {
                slots_.at(entry.slot).tables[{entry.group, entry.block}] = entry.page;
            }
        }
        std::vector<GroupUse> uses;
        for (std::size_t i = 0; i < plan.rows.size(); ++i) {
            for (std::size_t group = 0; group < config_->groups.size(); ++group) {
                uses.push_back(use_of(plan, plan.rows[i], starts[i], group));
            }
            slots_.at(plan.rows[i].slot).started = true;
        }
        return uses;
    }

    // A row before it has settled: this one starts so much later than it might have.
    void start_later(GroupUse& use, Position by) const {
        use.start += by;
        touch(use);
    }

    // Whether a step may run beside those in flight.
    static void require_no_reuse(const std::vector<GroupUse>& step, const std::vector<GroupUse>& other) {
        for (const GroupUse& use : step) {
            for (const GroupUse& theirs : other) {
                if (use.group != theirs.group || use.request == theirs.request) {
                    continue;
                }
                for (const PageId page : use.writes) {
                    require(!has(theirs.reads, page) && !has(theirs.writes, page),
                            "a group's page in flight is not reused");
                }
            }
        }
    }

    // `in_flight` are the uses of all steps in flight.
    static void check(const Snapshot& snapshot, const std::vector<GroupUse>& in_flight) {
        for (std::size_t group = 0; group < snapshot.groups.size(); ++group) {
            check_holders(snapshot, group);
            check_attached(snapshot, snapshot.groups[group]);
        }
        for (const GroupUse& use : in_flight) {
            const GroupSnapshot& group = snapshot.groups[use.group];
            const auto holder = std::ranges::find(snapshot.requests, use.request, &RequestSnapshot::id);
            const std::vector<PageId> held = held_by(holder->groups.at(use.group));
            for (const PageId page : use.reads) {
                require(has(held, page), "a group's pages in flight stay with their request");
            }
            for (const PageId page : use.writes) {
                require(has(held, page) && group.references[static_cast<std::size_t>(page)] == 1,
                        "a group's page has a single writer");
                require(!has(group.attached, page), "a group's page is attached after its result only");
            }
        }
    }

    static void require_all_back(const Snapshot& end) {
        for (const GroupSnapshot& group : end.groups) {
            require(group.free.size() + group.idle.size() == group.references.size(),
                    "every page of a group comes back");
        }
    }

    // Equal for states that differ in the names of pages alone.
    static void append_key(const Snapshot& snapshot, const std::vector<GroupUse>& in_flight,
                           std::string& key) {
        const auto number = [&](std::int64_t value) { (key += std::to_string(value)) += ' '; };
        for (std::size_t g = 0; g < snapshot.groups.size(); ++g) {
            const GroupSnapshot& group = snapshot.groups[g];
            std::map<PageId, int> names;
            std::map<PageId, std::uint64_t> content;
            for (std::size_t i = 0; i < group.attached.size(); ++i) {
                content[group.attached[i]] = group.attached_digests[i];
            }
            const auto page = [&](PageId id) {
                number(names.emplace(id, static_cast<int>(names.size())).first->second);
                number(static_cast<std::int64_t>(content[id]));
            };
            for (const RequestSnapshot& request : snapshot.requests) {
                key += ';';
                if (!request.groups.empty()) {
                    const RequestGroupSnapshot& held = request.groups[g];
                    number(held.first);
                    number(held.source >= 0);
                    std::ranges::for_each(held_by(held), page);
                    std::ranges::for_each(held.checkpoint_positions, number);
                }
            }
            for (std::size_t i = 0; i < group.idle.size(); ++i) {
                page(group.idle[i]);
                number(group.idle_retention[i]);
                number(group.idle_time_left[i]);
            }
        }
        for (const GroupUse& use : in_flight) {
            number(use.start);
        }
    }

 private:
    struct Slot {
        RequestId request;
        std::map<std::pair<int, int>, PageId> tables;  // by group and block
        bool started;
    };

    [[nodiscard]] static bool has(const std::vector<PageId>& pages, PageId page) {
        return std::ranges::find(pages, page) != pages.end();
    }

    [[nodiscard]] static std::vector<PageId> held_by(const RequestGroupSnapshot& request) {
        std::vector<PageId> held = request.pages;
        if (request.source >= 0) {
            held.push_back(request.source);
        }
        held.insert(held.end(), request.checkpoints.begin(), request.checkpoints.end());
        return held;
    }

    [[nodiscard]] GroupUse use_of(const StepPlan& plan, const Row& row, Position start,
                                  std::size_t group) const {
        const Slot& slot = slots_.at(row.slot);
        const int number = static_cast<int>(group) + 1;
        GroupUse use{slot.request, group, start, {}, {}};
        const auto page = [&](int block) {
            const auto found = slot.tables.find({number, block});
            require(found != slot.tables.end(), "a position that a row attends to has a page");
            return found->second;
        };
        const int size = config_->page_size;
        if (config_->groups[group].kind == CacheGroup::Kind::window) {
            use.first = std::max(start - config_->groups[group].window + 1, 0) / size;
            for (int block = use.first; block * size < row.start + row.count; ++block) {
                use.pages.push_back(page(block));
            }
            touch(use);
            return use;
        }
        use.writes.push_back(page(0));
        bool loaded = slot.started || row.start == 0;
        for (const StateEntry& entry : plan.states) {
            if (entry.slot != row.slot || entry.group != number) {
                continue;
            }
            if (entry.save == 0) {
                require(!loaded && entry.position == row.start,
                        "a state is loaded once, where its request starts");
                loaded = true;
                use.reads.push_back(entry.page);
            } else {
                require(row.start < entry.position && entry.position <= row.start + row.count &&
                            entry.position % size == 0,
                        "a checkpoint is taken at a bound that the row comes to");
                require((row.flags & kRowTokenOnDevice) == 0 || config_->draft_tokens == 0,
                        "no checkpoint is taken where a draft may be refused");
                require(!has(use.writes, entry.page), "each checkpoint has a page");
                use.writes.push_back(entry.page);
            }
        }
        require(loaded, "a state that starts from a prefix is loaded");
        return use;
    }

    // Which pages of a window the row reads and writes from where it starts.
    void touch(GroupUse& use) const {
        if (use.pages.empty()) {
            return;
        }
        const int size = config_->page_size;
        const int oldest = std::max(use.start - config_->groups[use.group].window + 1, 0) / size;
        use.reads.clear();
        use.writes.clear();
        for (int block = oldest; block < use.first + static_cast<int>(use.pages.size()); ++block) {
            (block < use.start / size ? use.reads : use.writes)
                .push_back(use.pages[static_cast<std::size_t>(block - use.first)]);
        }
    }

    static void check_holders(const Snapshot& snapshot, std::size_t index) {
        const GroupSnapshot& group = snapshot.groups[index];
        std::vector<int> holders(group.references.size(), 0);
        const auto hold = [&](PageId page) { ++holders[static_cast<std::size_t>(page)]; };
        for (const RequestSnapshot& request : snapshot.requests) {
            if (!request.groups.empty()) {
                std::ranges::for_each(held_by(request.groups[index]), hold);
            }
        }
        std::ranges::for_each(group.attached, hold);
        require(holders == group.references, "each page of a group counts its holders");
        for (const PageId page : group.free) {
            require(holders[static_cast<std::size_t>(page)] == 0, "a group's free page is nobody's");
        }
        require(std::ranges::count(holders, 0) == std::ssize(group.free),
                "a group's page that nobody holds is free");
    }

    static void check_attached(const Snapshot& snapshot, const GroupSnapshot& group) {
        std::map<std::uint64_t, PageId> block_of;
        for (std::size_t i = 0; i < snapshot.cached.size(); ++i) {
            block_of[snapshot.cached_digests[i]] = snapshot.cached[i];
        }
        std::set<std::uint64_t> seen;
        for (std::size_t i = 0; i < group.attached.size(); ++i) {
            const auto block = block_of.find(group.attached_digests[i]);
            require(block != block_of.end(), "what hangs at a block goes with it");
            require(seen.insert(group.attached_digests[i]).second, "one page of a group hangs at a block");
            require(group.references[static_cast<std::size_t>(group.attached[i])] == 1 ||
                        !has(snapshot.idle, block->second),
                    "who holds an attached page holds the block");
        }
    }

    const Config* config_;
    std::map<SlotId, Slot> slots_;
};

}  // namespace explore
