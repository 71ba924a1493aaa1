"""Postgres: transactions of named workspaces, SQL files, outbox, inbox, migrations."""

from paceline_common.db.outbox import Outbox, Outgoing
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries

__all__ = ["Database", "Outbox", "Outgoing", "Queries"]
