"""Rungs above a study's fidelity, and what screens below it turned away."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("studies", sa.Column("rungs_json", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("studies", sa.Column("screens_json", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("batches", sa.Column("screened", sa.Integer(), nullable=False, server_default="0"))
