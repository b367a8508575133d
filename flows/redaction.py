"""Hides user names and passwords of URLs in text for the terminal."""

import re

_USER_INFO = re.compile(r"(?<=://)[^/?#\s'\"]*@")


def redact_urls(text: str) -> str:
    """Return `text` with `***@` where a URL has `user:password@`."""
    return _USER_INFO.sub("***@", text)
