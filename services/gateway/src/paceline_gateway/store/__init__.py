"""The gateway's tables, views and SQL."""
