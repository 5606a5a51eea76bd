"""Health of devices: what their calibration kernel takes, and which trials were measured while one had drifted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "health",
        sa.Column("device", sa.String(length=16), nullable=False),
        sa.Column("toolchain", sa.String(), nullable=False),
        sa.Column("protocol", sa.String(), nullable=False),
        sa.Column("readings", sa.Text(), nullable=False),
        sa.Column("usual", sa.Double(), nullable=True),
        sa.Column("ratio", sa.Double(), nullable=False),
        sa.Column("drifting_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.fingerprint"], name=op.f("fk_health_device")),
        sa.PrimaryKeyConstraint("device", "toolchain", "protocol", name=op.f("pk_health")),
    )
    op.add_column("trials", sa.Column("calibration", sa.Double(), nullable=True))
    op.add_column("trials", sa.Column("drift", sa.Double(), nullable=True))
