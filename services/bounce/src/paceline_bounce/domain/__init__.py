"""Pure rules of bounces: reading a report, trusting it, classifying it."""
