"""`python -m paceline_bounce`."""

from paceline_bounce.app import run

if __name__ == "__main__":
    run()
