"""`python -m paceline_audit`."""

from paceline_audit.app import run

if __name__ == "__main__":
    run()
