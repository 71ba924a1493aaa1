"""`python -m paceline_reply`."""

from paceline_reply.app import run

if __name__ == "__main__":
    run()
