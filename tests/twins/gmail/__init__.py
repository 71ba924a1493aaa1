"""The Gmail twin: see `server`."""
