"""Texts without the passwords and tokens of servers and databases."""

import os
import re

_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORTEST = 6
"""Shorter values of these variables may be ordinary words; they stand in no text that MLflow writes."""
# Up to the last @, since an unquoted password may hold one; only an address that stands alone may hold spaces.
_ALONE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://).*@(?P<rest>\S*)", re.IGNORECASE | re.DOTALL)
_USER = re.compile(r"(?<=://)\S*@")
_SECRET = re.compile(r"([?&][^=&\s]*(?:password|passwd|pwd|token|secret)[^=&\s]*=)[^&\s]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """Return a text, or a single address, with all that could open a server masked.

    These are the user and password of each address, its parameters that hold a secret, and the values of
    MLFLOW_TRACKING_PASSWORD and MLFLOW_TRACKING_TOKEN. Every message, log line, param and tag passes through here.
    """
    for name in _VARIABLES:
        value = os.environ.get(name, "").strip()
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    if alone := _ALONE.fullmatch(text):
        text = f"{alone['scheme']}***@{alone['rest']}"
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))
