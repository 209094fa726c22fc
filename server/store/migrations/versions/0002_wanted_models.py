"""When a model without a running engine was last asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("wanted_at", sa.Float(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("versions only go forward")
