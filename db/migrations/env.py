"""Alembic's entry: runs the migrations on the connection, and inside the transaction, that db.migrate handed over."""

from alembic import context

from db.migrate import VERSION_TABLE
from db.schema import metadata

# SQLite changes tables by copying them, hence batches.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
