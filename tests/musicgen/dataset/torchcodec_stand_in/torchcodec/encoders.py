"""Encoding: `datasets` imports the class before it looks whether it needs it."""


class AudioEncoder:
    """Never called: our clips come as files and bytes."""

    def __init__(self, *args, **kwargs):
        raise AssertionError("nothing here should be encoded again")
