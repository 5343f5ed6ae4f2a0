"""Routing and experts in Triton. Arguments have passed the public functions' checks."""
