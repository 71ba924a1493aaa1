"""Pure rules of the sender: no I/O; `now` and `rng` are passed in."""
