"""Who has connected: the workers first, then the entry, which is told what the workers can hold."""

from typing import Final

from msgspec.structs import replace
from ts_protocol.channels import Channel
from ts_protocol.errors import HandshakeError
from ts_protocol.handshake import answer
from ts_protocol.messages import CacheGroup, EntryToScheduler, Hello, KvCapacity, WorkerToScheduler

EntryChannel = Channel[EntryToScheduler]
WorkerChannel = Channel[WorkerToScheduler]

_MUST_AGREE: Final = ("page_size", "vocab_size")
_SMALLEST: Final = ("num_pages", "max_num_seqs", "max_model_len")


def common_capacity(capacities: list[KvCapacity]) -> KvCapacity:
    """What all workers can hold: the smallest of each size.

    Raises:
        HandshakeError: page sizes, vocabularies or cache groups differ.
    """
    for field in _MUST_AGREE:
        values = sorted({getattr(capacity, field) for capacity in capacities})
        if len(values) > 1:
            raise HandshakeError(f"workers differ in {field}: {values}; start them with the same configuration")
    smallest = {field: min(getattr(capacity, field) for capacity in capacities) for field in _SMALLEST}
    first = capacities[0]
    groups = _common_groups([capacity.groups for capacity in capacities])
    return KvCapacity(page_size=first.page_size, vocab_size=first.vocab_size, groups=groups, **smallest)


def _common_groups(of_workers: list[tuple[CacheGroup, ...]]) -> tuple[CacheGroup, ...]:
    kinds = {tuple(replace(group, num_pages=0) for group in groups) for groups in of_workers}
    if len(kinds) > 1:
        raise HandshakeError(f"workers differ in groups: {sorted(map(str, kinds))}; load the same model on all of them")
    return tuple(
        replace(same[0], num_pages=min(group.num_pages for group in same)) for same in zip(*of_workers, strict=True)
    )


def greet_worker(channel: WorkerChannel, first: object, *, rank: int, fingerprint: str) -> KvCapacity:
    """Answer a worker's first message and return what it can hold.

    Raises:
        HandshakeError: it does not fit; it has been told why.
    """
    hello = answer(channel, first, role="scheduler", expect="worker", fingerprint=fingerprint)
    if hello.rank != rank:
        raise HandshakeError(f"worker {hello.rank} connected where worker {rank} belongs: check worker_addresses")
    if hello.kv is None:
        raise HandshakeError(f"worker {rank} did not say what it can hold: send Hello with kv")
    return hello.kv


def greet_entry(channel: EntryChannel, first: object, *, kv: KvCapacity, fingerprint: str) -> Hello:
    """Answer the entry's first message, with the capacity of the workers.

    Raises:
        HandshakeError: it does not fit; it has been told why.
    """
    return answer(channel, first, role="scheduler", expect="entry", fingerprint=fingerprint, kv=kv)
