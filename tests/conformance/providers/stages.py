"""Every provider that the suite is run on; a provider with several kinds of grant has several."""

from collections.abc import Mapping
from typing import Final

from tests.conformance.providers import gmail_stage, graph_stage, smtp_stage
from tests.conformance.providers.stage import Entry

STAGES: Final[Mapping[str, Entry]] = {
    "smtp": smtp_stage.ENTRY,
    **gmail_stage.ENTRIES,
    **graph_stage.ENTRIES,
}
