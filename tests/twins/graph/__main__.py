"""`python -m tests.twins.graph`: run the Graph twin, for development and tests only."""

from tests.twins.graph.server import GraphTwin, running
from tests.twins.process import serve_api

if __name__ == "__main__":
    serve_api("Graph", GraphTwin, running)
