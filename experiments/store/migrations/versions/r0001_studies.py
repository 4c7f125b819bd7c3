"""Studies, proposals, batches, candidates and records."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("config_json", sa.Text(), nullable=False),
        sa.Column("evaluator", sa.String(64), nullable=False),
        sa.Column("fidelity", sa.String(64), nullable=False),
        sa.Column("table_text", sa.Text(), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("finished", sa.String(40)),
        sa.Column("lease_owner", sa.String(200)),
        sa.Column("lease_until", sa.String(40)),
    )
    op.create_table(
        "candidates",
        sa.Column("key", sa.String(16), primary_key=True),
        sa.Column("arch_key", sa.String(16), nullable=False, index=True),
        sa.Column("arch_json", sa.Text(), nullable=False),
        sa.Column("task_json", sa.Text(), nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("candidate_key", sa.String(16), sa.ForeignKey("candidates.key"), nullable=False),
        sa.Column("evaluator", sa.String(64), nullable=False),
        sa.Column("fidelity", sa.String(64), nullable=False),
        sa.Column("replicate", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("metrics_json", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("weights_path", sa.String(300)),
        sa.Column("weights_sha256", sa.String(64)),
        sa.UniqueConstraint("candidate_key", "evaluator", "replicate"),
    )
    op.create_table(
        "proposals",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("candidate_key", sa.String(16), sa.ForeignKey("candidates.key"), nullable=False),
        sa.Column("point_json", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("anchor", sa.String(16)),
        sa.Column("latency_json", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Integer(), sa.ForeignKey("records.id")),
        sa.Column("from_cache", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("study_id", "number"),
        sa.UniqueConstraint("study_id", "candidate_key"),
    )
    op.create_table(
        "batches",
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("batch", sa.Integer(), primary_key=True),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("invalid", sa.Integer(), nullable=False),
        sa.Column("over_budget", sa.Integer(), nullable=False),
        sa.Column("duplicates", sa.Integer(), nullable=False),
        sa.Column("sampler_seconds", sa.Double(), nullable=False),
    )
