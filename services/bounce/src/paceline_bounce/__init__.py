"""Classifies bounces and complaints, keeps health."""
