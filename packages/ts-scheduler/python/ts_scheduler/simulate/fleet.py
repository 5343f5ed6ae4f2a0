"""Many replicas, each with its own users: sessions stay where they began."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from ts_scheduler.simulate.device import Device
from ts_scheduler.simulate.replica import Options, Outcome, Replica
from ts_scheduler.simulate.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Replicas of one device that share a workload's users evenly."""

    device: Device
    workload: Workload
    options: Options
    """``users`` counts the users of all replicas."""
    replicas: int

    def parts(self) -> list[tuple[Options, int]]:
        """Each replica's options and first user; users are spread evenly."""
        base, more = divmod(self.options.users, self.replicas)
        parts, first = [], 0
        for number in range(self.replicas):
            users = base + (number < more)
            parts.append((replace(self.options, users=users), first))
            first += users
        return parts


def simulate(fleet: Fleet, *, processes: int = 1) -> Outcome:
    """Run every replica and sum what happened."""
    jobs = [(fleet.device, fleet.workload, options, first) for options, first in fleet.parts() if options.users]
    total = Outcome()
    if processes == 1:
        for job in jobs:
            total.add(_run(job))
        return total
    with ProcessPoolExecutor(processes) as pool:
        for outcome in pool.map(_run, jobs):
            total.add(outcome)
    return total


def _run(job: tuple[Device, Workload, Options, int]) -> Outcome:
    device, workload, options, first_user = job
    return Replica(device, workload, options, first_user=first_user).run()
