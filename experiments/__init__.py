"""Studies: searched, stored, exported. Imports nothing, so that the command line starts at once."""

DEFAULT_URL = "sqlite:///topformer-nas.db"
"""Where studies are kept unless another database is named."""
