"""The local stack: every real part Paceline runs on, as processes of this machine."""
