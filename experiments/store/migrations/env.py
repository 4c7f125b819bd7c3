"""Alembic runs this; the connection comes from `experiments.store.schema.bring_up`, which holds the transaction."""

from alembic import context

from experiments.store.schema import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
