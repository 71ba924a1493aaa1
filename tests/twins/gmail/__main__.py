"""`python -m tests.twins.gmail`: run the Gmail twin, for development and tests only."""

from tests.twins.gmail.server import GmailTwin, running
from tests.twins.process import serve_api

if __name__ == "__main__":
    serve_api("Gmail", GmailTwin, running)
