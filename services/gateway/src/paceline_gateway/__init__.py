"""The only internet-facing edge: API, imports, unsubscribe."""
