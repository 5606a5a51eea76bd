"""What fusetune remembers: SQLAlchemy tables, Alembic migrations, and one small store per kind of thing.

Start at ``db.store.Store``. This room knows tuner.types and tuner.errors and no business rules beyond invariants.
"""
