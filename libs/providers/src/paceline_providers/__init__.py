"""The ways a message leaves a mailbox, one file per provider."""
