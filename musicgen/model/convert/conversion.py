"""`musicgen convert`: a pickled checkpoint becomes a folder in the published format, which every command can load."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from musicgen.errors import ModelError, StoreError, first_line
from musicgen.model.checkpoint.expected_tensors import check_tensors
from musicgen.model.checkpoint.identity import cache_folder
from musicgen.model.checkpoint.weights import read_headers
from musicgen.model.convert.sandbox import run_child
from musicgen.model.convert.source import FetchedSource, Format, fetch_companion, fetch_source
from musicgen.model.spec_reader import read_spec
from musicgen.storage import Store, open_store
from musicgen.version import package_version

OnBytes = Callable[[int, int], None]  # bytes written, bytes in all

_NOTE = "conversion.json"  # where a converted folder says what it was made of
_MIN_TORCH = (2, 10)
# Models that an audiocraft checkpoint names, and where they are published. A name that is not here is not looked up,
# since it comes out of a file that is not trusted.
_PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "text_encoder": {
        **{f"t5-{size}": f"google-t5/t5-{size}" for size in ("small", "base", "large", "3b", "11b")},
        **{f"google/flan-t5-{size}": f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl")},
    },
    "codec": {"facebook/encodec_32khz": "facebook/encodec_32khz"},
    "features": {"mert": "m-a-p/MERT-v1-95M"},
}
_OPTIONS = {"text_encoder": "--text-encoder", "codec": "--codec", "features": "--style-encoder"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted, and how. `companions` are the models that were added, with their commits."""

    source: str
    target: str
    format: Format
    tensors: int
    bytes: int
    isolation: str  # how the process that opened the pickles was kept from the network
    companions: dict[str, str]


def convert_checkpoint(
    source: str,
    target: str,
    revision: str | None = None,
    companions: Mapping[str, str] | None = None,
    on_bytes: OnBytes = lambda done, total: None,
) -> Conversion:
    """Convert the checkpoint `source` (a hub name, preset, folder or object-store folder) into a new folder `target`.

    `companions` name the models that an audiocraft checkpoint leaves out, by `text_encoder`, `codec` and `features`;
    those that are published are found by themselves. The pickles are opened in a subprocess without network, and only
    tensors are read from them. Raises `ModelError`; then `target` is not there.
    """
    _check_torch(version("torch"))
    store = _open_target(target)
    fetched, format_name = fetch_source(source, revision)
    added: dict[str, FetchedSource] = {}
    if format_name == "audiocraft":
        needs = run_child(fetched.folder, format_name)["needs"]
        added = {part: _fetch_needed(part, name, (companions or {}).get(part)) for part, name in needs.items()}
    folders = {part: model.folder for part, model in added.items()}
    with _partial_folder(store) as partial:
        answer = run_child(fetched.folder, format_name, partial, folders, on_bytes)
        check_tensors(read_spec(partial), read_headers(partial), partial)
        done = Conversion(
            source=str(fetched),
            target=store.uri,
            format=format_name,
            tensors=answer["tensors"],
            bytes=sum(path.stat().st_size for path in partial.iterdir()),
            isolation=answer["isolation"],
            companions={part: str(model) for part, model in added.items()},
        )
        note = asdict(done) | {"musicgen": package_version(), "torch": version("torch")}
        del note["target"]
        (partial / _NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        _publish(partial, store)
    return done


def _check_torch(installed: str) -> None:
    parts = installed.split(".")[:2]
    if not all(part.isdigit() for part in parts) or tuple(map(int, parts)) < _MIN_TORCH:
        raise ModelError(
            f"torch {installed} can be made to run code by a crafted file of weights (fixed in 2.10): convert where "
            "torch is 2.10 or later (pip install 'torch>=2.10'); the converted folder works with any version"
        )


def _open_target(target: str) -> Store:
    """Open the place of the new folder. Raises `ModelError` if something is there, or it cannot be written."""
    try:
        store = open_store(target)
        if store.location.scheme != "file":
            store.check()
        occupied = next(store.list(), None)
    except StoreError as error:
        raise ModelError(f"{target}: {error}") from None
    path = Path(store.uri)
    if occupied is not None or (store.location.scheme == "file" and path.exists() and not path.is_dir()):
        raise ModelError(f"{target}: is there already and not empty; give the name of a new folder")
    return store


def _fetch_needed(part: str, name: str, given: str | None) -> FetchedSource:
    """Fetch a model that the checkpoint names, or the one that the user gives instead."""
    published = _PUBLISHED[part].get(name)
    if given is None and published is None:
        raise ModelError(
            f"the checkpoint names {name[:80]!r} as its {part.replace('_', ' ')}, which is not known here: give its "
            f"folder or hub name with {_OPTIONS[part]}"
        )
    try:
        return fetch_companion(given or published or "")
    except ModelError as error:
        raise ModelError(
            f"the {part.replace('_', ' ')} of the checkpoint: {error} (or give {_OPTIONS[part]})"
        ) from None


@contextmanager
def _partial_folder(store: Store) -> Iterator[Path]:
    """Make a folder beside the target (for a bucket, in the cache), which is gone afterwards."""
    parent = Path(store.uri).parent if store.location.scheme == "file" else cache_folder() / "converted"
    partial = parent / f".convert-{uuid4().hex[:12]}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ModelError(f"{parent}: cannot be written ({first_line(error)})") from None
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, store: Store) -> None:
    """Give the folder its name; in a bucket config.json comes last, without which a folder is no checkpoint."""
    try:
        if store.location.scheme == "file":
            os.rename(partial, store.uri)
            return
        for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
            store.write(path.name, path)
    except (OSError, StoreError) as error:
        raise ModelError(f"{store.uri}: cannot be written ({first_line(error)})") from None
