"""Benches: every figure is a ratio with a peer or a limit measured in the same run."""
