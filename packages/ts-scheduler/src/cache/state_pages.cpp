#include "cache/state_pages.h"

#include "invariant.h"

namespace ts::scheduler {

void StatePages::settle(const SettleProof& proof, Attachments<RunningState>& attached,
                        std::span<const Node> nodes, Position settled, int page_size, Retention retention) {
    source_.reset();
    std::erase_if(checkpoints_, [&](Checkpoint& checkpoint) {
        if (checkpoint.position > settled) {
            return false;
        }
        const auto block = static_cast<std::size_t>(checkpoint.position / page_size) - 1;
        invariant(block < nodes.size(), "a checkpoint stands at the end of a published block");
        attached.attach(nodes[block], std::move(checkpoint.page).seal(proof), retention);
        return true;
    });
}

}  // namespace ts::scheduler
