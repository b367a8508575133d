"""Checks that the optional packages which the evaluation needs are installed."""

from importlib.util import find_spec

from musicgen.errors import JobError

_DISTRIBUTIONS = {
    "swift_f0": "swift-f0",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "joblib": "joblib",
    "music21": "music21",
}

JUDGE_MODULES = ("swift_f0", "sklearn", "scipy", "joblib")  # sufficient if a corpus is given


def require_extras(*modules: str) -> None:
    """Raise `JobError` with the command that installs them if some of these modules are missing (default: of all)."""
    missing = [_DISTRIBUTIONS[module] for module in modules or _DISTRIBUTIONS if find_spec(module) is None]
    if missing:
        raise JobError(f"evaluating needs {', '.join(missing)}: pip install '.[evaluate,train]' in the checkout")
