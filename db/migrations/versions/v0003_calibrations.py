"""Calibrations: what was measured of a designed set of synthetic blocks, and the cost model learned from it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "calibrations",
        sa.Column("device", sa.String(length=16), nullable=False),
        sa.Column("toolchain", sa.String(), nullable=False),
        sa.Column("protocol", sa.String(), nullable=False),
        sa.Column("samples", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("quality", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.fingerprint"], name=op.f("fk_calibrations_device")),
        sa.PrimaryKeyConstraint("device", "toolchain", "protocol", name=op.f("pk_calibrations")),
    )
