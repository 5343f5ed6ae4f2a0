"""Triton kernels run in its interpreter in all tests of a machine without a GPU.

Triton decides when it is imported, and other libraries import it: so this is said before any test module loads. A
kernel interpreted serves only where a test asks for it by name.

Examples of hypothesis have no deadline: a shared machine may stop for a second at any time. Threads of OpenMP sleep
between torch's operations: those of several test processes that spin took each other's cores (three times
as long).
"""

import os

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault(
    "TRITON_INTERPRET", "0" if os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd") else "1"
)
