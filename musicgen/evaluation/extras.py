"""What the evaluation needs beyond a plain install."""

from importlib.util import find_spec

from musicgen.errors import JobError

_NEEDED = {
    "swift_f0": "swift-f0",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "joblib": "joblib",
    "music21": "music21",
}

JUDGE_MODULES = ("swift_f0", "sklearn", "scipy", "joblib")  # enough where the corpus is there


def require_extras(*modules: str) -> None:
    """Raises `JobError`, one line with the command that installs them, if some of these modules are not there."""
    missing = [_NEEDED[module] for module in modules or _NEEDED if find_spec(module) is None]
    if missing:
        raise JobError(
            f"evaluating needs {', '.join(missing)}: pip install 'musicgen-batch[evaluate,train]' (from a checkout: "
            "'.[evaluate,train]')"
        )
