"""Decides who sends what when."""
