"""Studies: searched, stored, exported. Imports nothing, so that the command line starts at once."""

DEFAULT_URL = "sqlite:///topformer-nas.db"
"""Where studies are kept unless another database is named."""


def without_password(url: str) -> str:
    """The URL of a database as it may be shown."""
    import re  # noqa: PLC0415 - as above

    url = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?<=[?&])(password|sslpassword)=[^&]*", r"\1=***", url)
