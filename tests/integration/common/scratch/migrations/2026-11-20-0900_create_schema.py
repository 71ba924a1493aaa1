"""Create the tables of the schema `scratch`."""

from alembic import op

from paceline_common.db.tables import create_common_tables, enable_tenancy

revision = "202611200900"
down_revision = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE scratch.effect (workspace_id bigint NOT NULL, job_id text NOT NULL,"
        " n bigint NOT NULL, PRIMARY KEY (workspace_id, job_id))"
    )
    enable_tenancy(op, "scratch", "effect", "scratch_worker")
    create_common_tables(op, "scratch")
