"""The public API, one module per noun. Routes own their transaction."""
