"""Which version of this package runs."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the installed version, such as "0.1.0"; "source" where the code runs without having been installed."""
    try:
        return version("musicgen-batch")
    except PackageNotFoundError:
        return "source"
