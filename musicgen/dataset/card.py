"""Publishes a dataset's card: README.md for people and for Hugging Face, and the table that `load_dataset` needs."""

from dataclasses import dataclass
from functools import partial

from musicgen.dataset import paths
from musicgen.dataset.card_text import build_card, format_duration
from musicgen.dataset.current_table import choose_current_table, write_current_table
from musicgen.dataset.earlier_release import is_earlier_card
from musicgen.dataset.huggingface import CurrentTable, list_data_files
from musicgen.dataset.huggingface_table import TableChoice, choose_table, write_table
from musicgen.dataset.reader import Dataset
from musicgen.dataset.readme import Card, dump_yaml, read_front_matter
from musicgen.dataset.status import RunStatus, run_statuses, write_missing_run_keys
from musicgen.storage import Store
from musicgen.temporary_folder import temporary_folder

_CONFIG_MARK = "# musicgen: for load_dataset, written anew after every run, because README.md is not musicgen's"


@dataclass(frozen=True, slots=True)
class PublishedCard:
    """A card and where it was written: None if somebody else's files are in the way. `notes` says what was left alone.

    Each note is a sentence for the user.
    """

    path: str | None
    text: str
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()  # audio files that are missing, whose clips `load_dataset` will not see


def publish_card(dataset: Dataset, title: str = "Generated music") -> PublishedCard:
    """Write the card into `README.md`, and the table for `load_dataset` where the layout needs one.

    A README keeps what stands outside the card's marks. One without marks is left alone: then the card goes to
    `README.musicgen.md`, and what `load_dataset` needs to `.huggingface.yaml`.
    """
    write_missing_run_keys(dataset)
    while True:
        removed = set(dataset.tombstones().names())
        card = _publish_once(dataset, title)
        if set(dataset.tombstones().names()) == removed:  # else the table may have a clip that `gc` has deleted since
            return card


def _publish_once(dataset: Dataset, title: str) -> PublishedCard:
    runs = run_statuses(dataset)
    # Before the table is written: a shard that is committed meanwhile changes the fingerprint of the next card, whether
    # the table has its rows or not.
    fingerprint = dataset.fingerprint()
    with temporary_folder() as folder:
        table = write_table(dataset, folder, runs)
        current = write_current_table(dataset, table, folder)
    card = _build_current_card(dataset, title, runs, table, fingerprint, current)
    foreign = [*table.foreign, *([paths.CURRENT_COPY] if current is not None and current.is_foreign else [])]
    notes = [f"{path} was left alone: it is not a table that musicgen wrote" for path in foreign]
    if not list_data_files(dataset, runs, table.path, table.reads_index):
        notes.append(f"load_dataset cannot read the dataset, because it needs {paths.METADATA}; move that file away")
    texts = {paths.README: _put_card_into(dataset, paths.README, card, runs)}
    has_beside = dataset.store.exists(paths.README_BESIDE)
    if has_beside or texts[paths.README] is None:
        texts[paths.README_BESIDE] = _put_card_into(dataset, paths.README_BESIDE, card, runs)
    written = {path: text for path, text in texts.items() if text is not None}
    for path, text in written.items():
        dataset.store.write(path, text.encode())
    _write_config(dataset, card, is_needed=paths.README not in written)
    if not written:
        notes.append(f"the card was not written: {' and '.join(texts)} have no part that musicgen wrote")
        return PublishedCard(None, card.to_text(), tuple(notes), table.unreadable)
    if paths.README not in written and not has_beside:
        notes.append(
            f"{paths.README} was left alone: it has no part that musicgen wrote; the card is in {paths.README_BESIDE}"
        )
    path = next(iter(written))
    return PublishedCard(path, written[path], tuple(notes), table.unreadable)


def render_card(dataset: Dataset, title: str = "Generated music") -> str:
    """Return the card's text as a new README; writes nothing."""
    return make_card(dataset, title).to_text()


def make_card(dataset: Dataset, title: str = "Generated music") -> Card:
    """Return the card of the dataset as it is; writes nothing."""
    runs = run_statuses(dataset)
    table = choose_table(dataset, runs)
    current = choose_current_table(dataset, table)
    return _build_current_card(dataset, title, runs, table, dataset.fingerprint(), current)


def _build_current_card(
    dataset: Dataset,
    title: str,
    runs: list[RunStatus],
    table: TableChoice,
    fingerprint: str,
    current: CurrentTable | None,
) -> Card:
    audio_length = format_duration(sum(run.audio_s for run in runs))
    data_files = list_data_files(dataset, runs, table.path, table.reads_index)
    return build_card(dataset, title, runs, data_files, audio_length, fingerprint, current)


def _put_card_into(dataset: Dataset, path: str, card: Card, runs: list[RunStatus]) -> str | None:
    """Return the file's text with the card in it; None if the file must be left alone."""
    existing = _read_text(dataset.store, path)
    if existing is None:
        return None
    if not existing.strip() or is_earlier_card(existing, dataset, runs, partial(build_card, dataset, card.title)):
        return card.to_text()
    return card.merge_into(existing)


def _read_text(store: Store, path: str) -> str | None:
    """Read a file as text: empty if there is none, None if it is no text."""
    try:
        return store.read(path).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        return None


def _write_config(dataset: Dataset, card: Card, is_needed: bool) -> None:
    """Write `.huggingface.yaml` if the README is somebody else's and has no `configs`; else delete ours, if any."""
    store = dataset.store
    existing = _read_text(store, paths.HUGGINGFACE_CONFIG)
    if existing is None or (existing.strip() and not existing.startswith(_CONFIG_MARK)):
        return
    content = render_config(dataset, card, is_needed)
    if content is not None:
        store.write(paths.HUGGINGFACE_CONFIG, content)
    elif existing:
        store.delete(paths.HUGGINGFACE_CONFIG)


def render_config(dataset: Dataset, card: Card, is_needed: bool) -> bytes | None:
    """Return what `.huggingface.yaml` has to hold, from which `load_dataset` takes front matter too; None: nothing."""
    keys = {name: card.front_matter[name] for name in ("configs", "dataset_info") if name in card.front_matter}
    own_keys = read_front_matter(_read_text(dataset.store, paths.README) or "") or {}
    if not (is_needed and keys and "configs" not in own_keys):
        return None
    return f"{_CONFIG_MARK}\n{dump_yaml(keys)}".encode()
