"""Index idempotency keys by their age, which is what they are forgotten by."""

from alembic import op

revision = "202611201830"
down_revision = "202611201500"


def upgrade() -> None:
    """Add the index."""
    op.execute(
        "CREATE INDEX idempotency_key_created_at_idx ON gateway.idempotency_key (created_at)"
    )
