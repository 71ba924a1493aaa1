"""Pure rules of inbound mail: what a message is, and what it belongs to."""
