"""Writes, reads and verifies datasets in a folder or a bucket: file names, columns, commits of shards."""

from typing import TYPE_CHECKING

import lazy_loader

from musicgen import dataset_paths as paths

if TYPE_CHECKING:
    from musicgen.dataset.card import publish_card
    from musicgen.dataset.gc_gate import find_gate, release_gate
    from musicgen.dataset.info import InfoDamaged
    from musicgen.dataset.listen import write_page
    from musicgen.dataset.pause import end_pause, put_pause, read_pause
    from musicgen.dataset.reader import Dataset, open, open_dataset
    from musicgen.dataset.removal import remove_clips
    from musicgen.dataset.status import run_statuses
    from musicgen.dataset.tombstones import read_tombstones
    from musicgen.dataset.verification import verify, verify_dataset
    from musicgen.dataset.verification_report import Fault, VerificationReport

__all__ = [
    "Dataset",
    "Fault",
    "InfoDamaged",
    "VerificationReport",
    "end_pause",
    "find_gate",
    "open",
    "open_dataset",
    "paths",
    "publish_card",
    "put_pause",
    "read_pause",
    "read_tombstones",
    "release_gate",
    "remove_clips",
    "run_statuses",
    "verify",
    "verify_dataset",
    "write_page",
]

# pyarrow is imported when a dataset is opened, not when the package is imported.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "card": ["publish_card"],
        "gc_gate": ["find_gate", "release_gate"],
        "info": ["InfoDamaged"],
        "listen": ["write_page"],
        "pause": ["end_pause", "put_pause", "read_pause"],
        "reader": ["Dataset", "open", "open_dataset"],
        "removal": ["remove_clips"],
        "status": ["run_statuses"],
        "tombstones": ["read_tombstones"],
        "verification": ["verify", "verify_dataset"],
        "verification_report": ["Fault", "VerificationReport"],
    },
)
