"""Virtual days of a whole fleet, by seed, and a checker that trusts none of it."""
