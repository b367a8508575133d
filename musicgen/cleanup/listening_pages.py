"""Deletes what the pages of `musicgen listen` and of runs show of removed clips, in the dataset itself."""

from collections.abc import Set

from musicgen.dataset import paths
from musicgen.dataset.page import PAGE_MARK
from musicgen.storage import Store


def delete_run_pages(store: Store, runs: Set[str], gone: Set[str]) -> None:
    """Delete the pages of these runs that show one of these clips; nothing writes them anew."""
    for path in map(paths.run_page, sorted(runs)):
        try:
            page = store.read(path)
        except FileNotFoundError:
            continue
        if any(key.encode() in page for key in gone):
            store.delete(path)


def delete_pages(store: Store, gone: Set[str], extension: str) -> None:
    """Delete the pictures and copies of these clips, and the page if it shows one of them.

    `musicgen listen` writes the page anew. A page without our mark is left alone.
    """
    for folder, suffix in ((paths.SPECTROGRAMS, "png"), (paths.CLIPS, extension)):
        for info in list(store.scan(folder).files):
            key, _, ending = info.path.rpartition("/")[2].partition(".")
            if ending == suffix and key in gone:
                store.delete(info.path)
    try:
        page = store.read(paths.LISTEN)
    except FileNotFoundError:
        return
    if PAGE_MARK.encode() in page and any(key.encode() in page for key in gone):
        for info in list(store.scan(paths.CLIPS, "melody-").files):
            store.delete(info.path)
        store.delete(paths.LISTEN)
