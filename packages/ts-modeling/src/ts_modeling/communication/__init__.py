"""Between ranks: the collectives of a compiled plan become ``torch.distributed`` calls here, and only here."""

from .communicator import Communicator
from .launchers import Place, find_place
from .pending import Collective, Pending, StartedCollective
from .plugins import API_VERSION, GROUP, CollectivePlugin, CollectiveRequest, Plugins
from .rendezvous import join, leave

__all__ = [
    "API_VERSION",
    "GROUP",
    "Collective",
    "CollectivePlugin",
    "CollectiveRequest",
    "Communicator",
    "Pending",
    "Place",
    "Plugins",
    "StartedCollective",
    "find_place",
    "join",
    "leave",
]
