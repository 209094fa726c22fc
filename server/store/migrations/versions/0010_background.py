"""Which gateway runs a background response, and until when it has said so."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("responses", sa.Column("owner", sa.String(), nullable=True))
    op.add_column("responses", sa.Column("lease_until", sa.Float(), nullable=True))
    op.create_index("ix_responses_lease_until", "responses", ["lease_until"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("versions only go forward")
