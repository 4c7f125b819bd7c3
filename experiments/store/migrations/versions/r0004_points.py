"""A trial's point as numbers of its own, in an index: a front is found without reading every trial."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("proposals", sa.Column("total_ms", sa.Double(), nullable=False, server_default="0"))
    op.add_column("proposals", sa.Column("miou_pct", sa.Double(), nullable=True))
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            "SELECT proposals.id, latency_json, metrics_json FROM proposals LEFT JOIN records ON record_id = records.id"
        )
    ).all()
    for number, latency, metrics in rows:
        connection.execute(
            sa.text("UPDATE proposals SET total_ms = :ms, miou_pct = :miou WHERE id = :id"),
            {
                "id": number,
                "ms": json.loads(latency)["total_ms"],
                "miou": None if metrics is None else json.loads(metrics)["miou_pct"],
            },
        )
    op.create_index("proposal_points", "proposals", ["study_id", "number", "batch", "anchor", "total_ms", "miou_pct"])
