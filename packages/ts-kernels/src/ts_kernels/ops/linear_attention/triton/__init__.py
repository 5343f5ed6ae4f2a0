"""Gated delta nets in Triton. Nothing waits for the host: rows are found on the device, from cu_q."""
