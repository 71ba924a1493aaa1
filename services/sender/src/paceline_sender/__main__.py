"""`python -m paceline_sender`."""

from paceline_sender.app import run

if __name__ == "__main__":
    run()
