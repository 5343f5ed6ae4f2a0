"""Plugins for vendors' libraries, shipped here; each registers kernels only where its library is installed."""
