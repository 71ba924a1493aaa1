"""Pure rules of the audit chain."""
