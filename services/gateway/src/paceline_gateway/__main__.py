"""`python -m paceline_gateway`."""

from paceline_gateway.app import run

if __name__ == "__main__":
    run()
