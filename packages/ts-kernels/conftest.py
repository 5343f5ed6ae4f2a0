"""Triton kernels run in its interpreter in all tests of a machine without a GPU.

Triton decides when it is imported, and other libraries import it: so this is said before any test module loads. A
kernel interpreted serves only where a test asks for it by name.
"""

import os

os.environ.setdefault(
    "TRITON_INTERPRET", "0" if os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd") else "1"
)
