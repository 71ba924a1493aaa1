"""`python -m tests.twins.vault --port N --root-token-file F`: run the key-service twin."""

import argparse
import sys
from pathlib import Path

import uvicorn
from tests.twins.vault.server import VERSION, KeyTwin, application
from tests.twins.vault.state import StateFile

WARNING = """\
##########################################################################
#  KEY-SERVICE TWIN, FOR DEVELOPMENT ONLY. It is not Vault.              #
#  Keys are kept in this process's memory, unprotected, and are lost     #
#  when it ends; with --state they lie in that file in the clear.        #
#  Never give it a credential that matters.                              #
##########################################################################
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.twins.vault", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--root-token-file", type=Path, required=True)
    parser.add_argument(
        "--state", type=Path, help="keep keys, policies and logins there, in the clear (0600)"
    )
    arguments = parser.parse_args()
    root_token = arguments.root_token_file.read_text().strip()
    if not root_token:
        parser.error("the root token file is empty")
    sys.stderr.write(WARNING)
    sys.stderr.write(f"key-service twin {VERSION} on {arguments.host}:{arguments.port}\n")
    sys.stderr.flush()
    if arguments.state:
        kept = StateFile(arguments.state)
        served = application(KeyTwin(root_token, kept.load()), kept.save)
    else:
        served = application(KeyTwin(root_token))
    uvicorn.run(
        served,
        host=arguments.host,
        port=arguments.port,
        # The C parser does not know the LIST method.
        http="h11",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
