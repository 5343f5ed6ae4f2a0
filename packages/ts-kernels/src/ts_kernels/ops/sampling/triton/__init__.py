"""Sampling in Triton. Rows of the vocabulary are cut into chunks of a fixed size, whatever the batch, so that every sum
has one order; chunks are programs of their own, so that a small batch occupies the device. Nothing waits for the host.
"""
