"""`python -m paceline_scheduler`."""

from paceline_scheduler.app import run

if __name__ == "__main__":
    run()
