"""Downloads checkpoints from the Hugging Face hub: configs, tokenizer and safetensors, never pickles.

Some repositories hold pickles only, and the hub's own converter has offered their tensors as safetensors in a pull
request that nobody merged. It is used only if the user says so (`allow_pr`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musicgen.errors import ModelError, first_line
from musicgen.model.checkpoint.layout import MUSICGEN_LAYOUT, FileLayout
from musicgen.presets import suggest_names

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

CONVERTER = "SFconvertbot"  # the hub's account that opens "Adding `safetensors` variant of this model"
_WEIGHT_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".safetensors")
_FILES_NAMED = 6


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A pull request of a hub repository, and the commit that it held when it was looked up."""

    number: int
    author: str
    commit: str

    def __str__(self) -> str:
        return f"pull request {self.number} by {self.author} (commit {self.commit})"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a checkpoint on this machine; `commit` is None where they are not of the hub."""

    folder: Path
    commit: str | None = None
    pull_request: PullRequest | None = None


def download_checkpoint(
    name: str, revision: str | None, allow_pr: bool, layouts: Sequence[FileLayout] = (MUSICGEN_LAYOUT,)
) -> Snapshot:
    """Download the hub model `name` at a branch, tag or commit; None is its main branch.

    Raises `ModelError`. If the revision has no safetensors, the message says what it holds and what can be done.
    """
    patterns = [pattern for layout in layouts for pattern in layout.patterns]
    folder = download_files(name, revision, patterns)
    if any((folder / layout.marker).is_file() and layout.is_complete(folder) for layout in layouts):
        return Snapshot(folder, folder.name)
    with translate_hub_errors(name, revision):
        from huggingface_hub import HfApi

        api = HfApi()
        files = _describe_weights(api.model_info(name, revision=folder.name, files_metadata=True))
        pull_request = _find_conversion(api, name)
    if pull_request is None or not allow_pr:
        raise ModelError(_explain_missing_weights(name, revision, files, pull_request, allow_pr))
    return Snapshot(download_files(name, pull_request.commit, patterns), pull_request.commit, pull_request)


def list_hub_files(name: str, revision: str | None) -> tuple[str, list[str]]:
    """Return the commit that a revision of a hub repository means, and the paths of its files. Raises `ModelError`."""
    from huggingface_hub import HfApi

    with translate_hub_errors(name, revision):
        info = HfApi().model_info(name, revision=revision)
    return info.sha or "", [file.rfilename for file in info.siblings or ()]


def download_files(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Download the files of a hub repository that match; returns their folder, named by the commit.

    Raises `ModelError`.
    """
    from huggingface_hub import snapshot_download

    with translate_hub_errors(name, revision):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def translate_hub_errors(name: str, revision: str | None) -> Iterator[None]:
    """Raise `ModelError` for the errors of the hub's library, saying what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    label = f"{name}@{revision}" if revision else name
    try:
        yield
    except RevisionNotFoundError:
        raise ModelError(
            f"the hub model {name} has no revision {revision!r}; see its page for branches, tags and commits"
        ) from None
    except GatedRepoError:
        raise ModelError(f"the hub model {label} is gated: accept its terms on its page, then set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"no model {name!r} on the hub (or it is private: set HF_TOKEN); {suggest_names(name)}"
        ) from None
    except HFValidationError as error:
        raise ModelError(f"{name!r} cannot be a hub name: {error}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ModelError(
            f"the hub cannot be reached and {label} is not in its cache: check the network, or give model.name a "
            "folder or s3:// folder that holds the checkpoint"
        ) from None
    except (HfHubHTTPError, HTTPError, OSError) as error:  # HTTPError is the base of the transport's errors
        raise ModelError(f"the hub model {label} cannot be downloaded: {first_line(error)}; try again") from None


def _find_conversion(api: "HfApi", name: str) -> PullRequest | None:
    """Find the newest open pull request of the hub's converter that holds safetensors."""
    discussions = api.get_repo_discussions(
        name, author=CONVERTER, discussion_type="pull_request", discussion_status="open"
    )
    ours = [discussion for discussion in discussions if discussion.author == CONVERTER and discussion.is_pull_request]
    for discussion in sorted(ours, key=lambda discussion: discussion.num, reverse=True):
        info = api.model_info(name, revision=f"refs/pr/{discussion.num}")
        names = {file.rfilename for file in info.siblings or ()}
        if info.sha and names & {"model.safetensors", "model.safetensors.index.json"}:
            return PullRequest(discussion.num, discussion.author, info.sha)
    return None


def _describe_weights(info: "ModelInfo") -> list[str]:
    """Describe the weight files of a revision: "pytorch_model.bin (8.04 GB)"."""
    files = [file for file in info.siblings or () if file.rfilename.endswith(_WEIGHT_ENDINGS)]
    return [f"{file.rfilename} ({file.size / 1e9:.2f} GB)" if file.size else file.rfilename for file in files]


def _explain_missing_weights(
    name: str, revision: str | None, files: Sequence[str], pull_request: PullRequest | None, allow_pr: bool
) -> str:
    more = f" and {len(files) - _FILES_NAMED} more" if len(files) > _FILES_NAMED else ""
    contents = f"{', '.join(files[:_FILES_NAMED])}{more}" if files else "no weights at all"
    text = f"the hub model {name} holds no model.safetensors at {revision or 'main'}: it holds {contents}."
    if pull_request is not None:
        text += f" The hub's converter has added safetensors in {pull_request}: to use them set model.allow_pr=true."
    elif allow_pr:
        text += f" No open pull request by {CONVERTER} adds safetensors."
    if any(".bin" in file for file in files):
        or_else = "Or convert" if pull_request is not None else "Convert"
        at = f" --revision {revision}" if revision else ""
        text += f" {or_else} the pickled weights once: musicgen convert {name} FOLDER{at}, then model.name is FOLDER."
    return text
