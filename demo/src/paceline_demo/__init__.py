"""The whole house in one run, checked against what the mail host holds."""
