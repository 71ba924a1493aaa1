"""Chaos: the whole house on its real parts, broken at random by a seed, checked from outside."""
