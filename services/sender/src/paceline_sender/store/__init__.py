"""The sender's rows."""
