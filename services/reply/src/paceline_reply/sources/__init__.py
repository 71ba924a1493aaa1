"""Where inbound mail is read from: one module per protocol."""
