"""Alembic's environment of every service; the work is in `paceline_common.db.migrate`."""

from alembic import context

from paceline_common.db.migrate import run_environment

run_environment(context)
