"""The real scheduler against a model of a device, in virtual time: ``ts-scheduler simulate``.

``device``: what a step costs. ``workload``: what users ask. ``replica``: one scheduler, its users and its clock.
``fleet``: many replicas. ``report``: the figures as a table, JSON and a plot.
"""

from ts_scheduler.simulate.device import PRESETS, Device
from ts_scheduler.simulate.fleet import Fleet, simulate
from ts_scheduler.simulate.replica import Options, Outcome, Replica
from ts_scheduler.simulate.workload import WORKLOADS, Workload

__all__ = ["PRESETS", "WORKLOADS", "Device", "Fleet", "Options", "Outcome", "Replica", "Workload", "simulate"]
