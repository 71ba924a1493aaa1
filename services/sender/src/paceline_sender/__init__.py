"""Opens one credential, submits one message, records what happened."""
