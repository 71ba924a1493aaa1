"""The stack that tests share: the same one that `make up` and `make demo` use."""

import pytest

from paceline_local.stack import Stack


@pytest.fixture(scope="session")
def stack() -> Stack:
    """Return the local stack, up with the real Vault and a migrated database, without services.

    What is missing fails the test: nothing is skipped. The stack is left as it
    is afterwards, so that the next run finds it up.
    """
    return Stack().up(keys="vault", services=False)
