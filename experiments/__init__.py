"""Studies: searched, stored, exported. Imports nothing, so that the command line starts at once."""

DEFAULT_URL = "sqlite:///topformer-nas.db"
"""Where studies are kept unless another database is named."""
_SHOWN_OPTIONS = [
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "sslmode",
    "connect_timeout",
    "application_name",
    "target_session_attrs",
]
"""Options of a database URL whose values are no secrets. All others are hidden, since a password has many spellings."""


def without_password(url: str, *, told: str | None = None) -> str:
    """The URL of a database or of object storage as it may be shown; or what a driver `told` of it, likewise."""
    import re  # noqa: PLC0415 - as above
    from urllib.parse import unquote  # noqa: PLC0415

    secrets: list[str] = []

    def password(found: re.Match[str]) -> str:
        secrets.append(found.group(2))
        return f"{found.group(1)}:***@"

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name in _SHOWN_OPTIONS and not set(value) & set(";#=%"):
            return found.group()
        secrets.append(value)
        return f"{name}=***"

    address, mark, query = re.sub(r"(?<=://)([^:/@]*):(.*)@", password, url).partition("?")
    shown = address + mark + re.sub(r"([^&;#=]*)=([^&]*)", option, query)
    if told is None:
        return shown
    for secret in sorted({*secrets, *map(unquote, secrets)} - {""}, key=len, reverse=True):
        told = told.replace(secret, "***")
    return told
