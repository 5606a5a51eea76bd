"""What a job's report says of ONNX Runtime, where lists find it."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("paired", sa.Double(), nullable=True))
    connection = op.get_bind()
    for (id,) in connection.execute(sa.text("SELECT id FROM jobs WHERE report IS NOT NULL")).all():
        report = json.loads(
            connection.execute(sa.text("SELECT report FROM jobs WHERE id = :id"), {"id": id}).scalar_one()
        )
        found = report.get("speedup") if isinstance(report, dict) else None
        paired = found.get("over_onnxruntime") if isinstance(found, dict) else None
        if isinstance(paired, int | float):
            connection.execute(sa.text("UPDATE jobs SET paired = :paired WHERE id = :id"), {"id": id, "paired": paired})
