"""Where a key came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "api_keys", sa.Column("origin", sa.String(), nullable=False, server_default="created")
    )
    op.execute("UPDATE api_keys SET origin = name WHERE name IN ('configured', 'first')")


def downgrade() -> None:
    raise NotImplementedError("versions only go forward")
