"""Reads inboxes, matches replies to sends."""
