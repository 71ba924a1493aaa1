"""A service's store in small: one tenant table, one function, one view."""
