"""Create audit's tables: the chains and their signed heads, which nobody changes."""

from alembic import op

from paceline_common.db.tables import create_common_tables, enable_tenancy

revision = "202611200900"
down_revision = None

SCHEMA = "audit"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE audit.audit_record (
            workspace_id bigint NOT NULL,
            seq bigint NOT NULL,
            event_id text NOT NULL,
            source text NOT NULL,
            at timestamptz NOT NULL,
            action text NOT NULL,
            actor text NOT NULL,
            subject text NOT NULL,
            source_ip text,
            before_digest text,
            after_digest text,
            detail jsonb NOT NULL,
            digest bytea NOT NULL,
            PRIMARY KEY (workspace_id, seq),
            UNIQUE (workspace_id, source, event_id),
            CONSTRAINT audit_record_seq_check CHECK (seq >= 1),
            CONSTRAINT audit_record_digest_check CHECK (octet_length(digest) = 32)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE audit.checkpoint (
            workspace_id bigint NOT NULL,
            seq bigint NOT NULL,
            digest bytea NOT NULL,
            signed_at timestamptz NOT NULL,
            signature text NOT NULL,
            PRIMARY KEY (workspace_id, seq),
            FOREIGN KEY (workspace_id, seq)
                REFERENCES audit.audit_record (workspace_id, seq)
        )
        """
    )
    # Grants already refuse the service's own role; the trigger refuses the owner too.
    op.execute(
        """
        CREATE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% on %.% is refused: the log is append-only',
                TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
        END $$
        """
    )
    for table in ("audit_record", "checkpoint"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()"
        )
        enable_tenancy(op, SCHEMA, table, "audit_worker")
        # A view's rows are filtered by its owner's policies, in which current_user is the reader.
        op.execute(
            f"CREATE POLICY admin_reads ON audit.{table} FOR SELECT TO audit_owner "
            "USING (current_user = 'admin')"
        )
    create_common_tables(op, SCHEMA)
