"""The Graph twin: see `server`."""
