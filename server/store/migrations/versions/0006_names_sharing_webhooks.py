"""Aliases of models, fine-tunes that are shared with other projects, and webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "model_aliases",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("points_to", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name="pk_model_aliases"),
    )
    op.create_table(
        "checkpoint_permissions",
        sa.Column("num", _ROW_NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name="fk_checkpoint_permissions_model_id"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_checkpoint_permissions_project_id"
        ),
        sa.PrimaryKeyConstraint("num", name="pk_checkpoint_permissions"),
        sa.UniqueConstraint("id", name="uq_checkpoint_permissions_id"),
        sa.UniqueConstraint(
            "model_id", "project_id", name="uq_checkpoint_permissions_model_id_project_id"
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "webhook_events",
        sa.Column("num", _ROW_NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("spread_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_webhook_events_project_id"
        ),
        sa.PrimaryKeyConstraint("num", name="pk_webhook_events"),
        sa.UniqueConstraint("id", name="uq_webhook_events_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_events_spread_at", "webhook_events", ["spread_at"], unique=False)
    op.create_table(
        "webhook_deliveries",
        sa.Column("num", _ROW_NUMBER, autoincrement=True, nullable=False),
        sa.Column("event_num", _ROW_NUMBER, nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["event_num"], ["webhook_events.num"], name="fk_webhook_deliveries_event_num"
        ),
        sa.PrimaryKeyConstraint("num", name="pk_webhook_deliveries"),
        sa.UniqueConstraint("event_num", "url", name="uq_webhook_deliveries_event_num_url"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_webhook_deliveries_url_state_next_at",
        "webhook_deliveries",
        ["url", "state", "next_at"],
        unique=False,
    )


def downgrade() -> None:
    raise NotImplementedError("versions only go forward")
