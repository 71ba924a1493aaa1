"""Hand-written bugs in the rules, each of which a named test must find (`make mutants`)."""
