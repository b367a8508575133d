"""Finds the checkpoint that a model's name means and brings it to this machine.

Without torch, so that planning starts fast.
"""

import difflib
import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from musicgen.errors import ModelError, StoreError, first_line
from musicgen.model.checkpoint.identity import CHECKPOINT_FILE_PATTERNS, cache_folder, checkpoint_identity
from musicgen.model.checkpoint.weights import weight_files
from musicgen.model.spec import ModelSpec, read_spec
from musicgen.presets import find_preset, preset_names
from musicgen.storage import open_store

if TYPE_CHECKING:
    from musicgen.storage import FileInfo, Store

EMBEDDED = "embedded"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine. `revision` is a hub commit; None for a folder, a bucket and the embedded model."""

    name: str  # as the user wrote it
    folder: Path
    revision: str | None
    spec: ModelSpec

    @cached_property
    def identity(self) -> str:
        """The sha256 over configs, tokenizer and weights; see `musicgen.model.checkpoint.identity`."""
        return checkpoint_identity(self.folder)


def resolve_checkpoint(name: str | os.PathLike[str], revision: str | None = None) -> Checkpoint:
    """Find the checkpoint that `name` means and bring it to this machine.

    `name` is `embedded`, a preset of configs/models, a local folder, an object-store folder (`s3://...`, copied once
    per node) or a hub name (`owner/name`, downloaded once; `revision` is a branch, tag or commit). Raises
    `ModelError`: nothing of that name, hub unreachable, weights missing or pickled, kind not supported.
    """
    name = os.fspath(name)
    folder, commit = _locate(name, revision)
    spec = read_spec(folder)
    weight_files(folder)
    return Checkpoint(name, folder, commit, spec)


def _locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    if name == EMBEDDED:
        _refuse_revision(name, revision)
        return Path(__file__).parents[2] / "embedded" / "checkpoint", None
    if "://" in name:
        _refuse_revision(name, revision)
        return _stage_from_store(name), None
    path = Path(name).expanduser()
    preset = find_preset(name)
    if path.is_dir() and (preset is None or preset.name != name):
        _refuse_revision(name, revision)
        return path.resolve(), None
    if preset is not None:
        if not preset.works or preset.hub is None:
            raise ModelError(f"the preset {preset.name!r} does not work yet: {preset.status}")
        return _download_from_hub(preset.hub, revision or preset.revision)
    if path.is_absolute() or name.startswith((".", "~")) or not _HUB_NAME.fullmatch(name):
        raise ModelError(f"no model {name!r}: {_suggest_names(name)}")
    return _download_from_hub(name, revision)


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ModelError(
            f"model.revision {revision!r} means nothing for {name!r}: only hub models have revisions; leave it out"
        )


def _suggest_names(name: str) -> str:
    known = [EMBEDDED, *preset_names()]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"{suggestion}It may be a preset ({', '.join(known)}), a hub name such as facebook/musicgen-small, a "
        "folder, or s3://bucket/folder"
    )


def _download_from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    """Download a hub repository's configs and safetensors, never pickles; returns folder and commit.

    Raises `ModelError`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    label = f"{name}@{revision}" if revision else name
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(CHECKPOINT_FILE_PATTERNS)))
    except RevisionNotFoundError:
        raise ModelError(
            f"the hub model {name} has no revision {revision!r}; see its page for branches, tags and commits"
        ) from None
    except GatedRepoError:
        raise ModelError(f"the hub model {label} is gated: accept its terms on its page, then set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"no model {name!r} on the hub (or it is private: set HF_TOKEN); {_suggest_names(name)}"
        ) from None
    except HFValidationError as error:
        raise ModelError(f"{name!r} cannot be a hub name: {error}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ModelError(
            f"the hub cannot be reached and {label} is not in its cache: check the network, or give model.name a "
            "folder or s3:// folder "
            "that holds the checkpoint"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"the hub model {label} cannot be downloaded: {first_line(error)}; try again") from None
    return folder, folder.name


def _stage_from_store(uri: str) -> Path:
    """Copy an object-store folder to this node's cache, by one process while the others wait. Raises `ModelError`."""
    from filelock import FileLock

    try:
        store = open_store(uri)
        store.check()
        files = [
            file for file in store.list() if any(fnmatch(file.path, pattern) for pattern in CHECKPOINT_FILE_PATTERNS)
        ]
    except StoreError as error:
        raise ModelError(f"the model {uri} cannot be read: {error}") from None
    if not any(file.path == "config.json" for file in files):
        raise ModelError(
            f"no model at {uri}: it holds no config.json; give the folder of a checkpoint in the published format"
        )

    state = "\n".join([store.uri, *(f"{file.path} {file.size} {file.etag}" for file in files)])
    target = cache_folder() / "models" / hashlib.sha256(state.encode()).hexdigest()[:32]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _copy_files(store, files, target)
    except (OSError, StoreError) as error:
        raise ModelError(
            f"the model {uri} cannot be copied to {target.parent}: {first_line(error)}; set MUSICGEN_CACHE elsewhere"
        ) from None
    return target


def _copy_files(store: "Store", files: "list[FileInfo]", target: Path) -> None:
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
    try:
        for file in files:
            with store.open(file.path) as source, (partial / file.path).open("wb") as sink:
                shutil.copyfileobj(source, sink, 4 << 20)
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
