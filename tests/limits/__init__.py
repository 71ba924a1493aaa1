"""Limits that cannot break: each scenario on the whole house, judged at the mail host."""
