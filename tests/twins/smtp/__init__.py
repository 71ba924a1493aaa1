"""An SMTP server that does as its script says, mostly wrong."""
