"""From a batch as it stands in the manifest to keyed rows, and to rows refused with a reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import pyarrow as pa

from musicgen.errors import RowError
from musicgen.manifest.audio_hashes import AudioHashes, AudioReference, HashedAudio
from musicgen.manifest.row import PARAMETERS, RowReader
from musicgen.manifest.source_batch import SourceBatch
from musicgen.plan.keys import Keyer
from musicgen.plan.row_schema import ROW_SCHEMA

PIECE_ROWS = 8192
_SHOWN_PROMPT_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that no run will make."""

    number: int  # in its file
    source: str
    id: str | None
    prompt: str | None
    error_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """Keyed rows of one batch. `positions` says of which source row each is: a row with samples is several."""

    rows: pa.Table  # ROWS
    keys: list[bytes]
    positions: list[int]
    invalid: list[InvalidRow]


class BatchParser:
    """Turns batches into keyed rows."""

    def __init__(self, reader: RowReader, keyer: Keyer, conditions: AudioHashes):
        self.reader = reader
        self.keyer = keyer
        self.conditions = conditions

    def parse(self, batch: SourceBatch) -> Iterator[ParsedBatch]:
        """Check, hash and key a batch's rows, in pieces: rows with many samples are many rows.

        The last has the refused.
        """
        refused = [
            InvalidRow(row.number, batch.locate(row.number), None, None, "invalid", f"the row {row.reason}")
            for row in batch.unparsable
        ]
        checked = self._check(batch, refused)
        found = self._conditions(batch, checked)
        kept = _Kept()
        key, settings = self.keyer.key, self.reader.make_request
        for position, parameters, prompt, id, seed, melody, continuation in checked:
            tune = past = None
            if melody is not None or continuation is not None:
                both = [found[wanted] if wanted else None for wanted in (melody, continuation)]
                error = next((item for item in both if isinstance(item, RowError)), None)
                if error is not None:
                    number = batch.numbers[position]
                    shown = prompt[:_SHOWN_PROMPT_CHARACTERS]
                    refused.append(InvalidRow(number, batch.locate(number), id, shown, error.error_class, str(error)))
                    continue
                tune, past = (item if isinstance(item, HashedAudio) else None for item in both)
            for sample in range(parameters.samples):
                if len(kept.keys) >= PIECE_ROWS:
                    yield ParsedBatch(self._table(batch, kept), kept.keys, [row[0] for row in kept.rows], [])
                    kept = _Kept()
                request = partial(settings, parameters, prompt, id, sample, seed, tune, past)
                hashes = tune.sha256 if tune else None, past.sha256 if past else None
                digest, effective = key(parameters, prompt, id, sample, seed, *hashes, request)
                kept.rows.append((position, parameters, prompt, id, sample, tune, past))
                kept.keys.append(digest)
                kept.seeds.append(effective)
        refused.sort(key=lambda row: row.number)
        yield ParsedBatch(self._table(batch, kept), kept.keys, [row[0] for row in kept.rows], refused)

    def _table(self, batch: SourceBatch, kept: "_Kept") -> pa.Table:
        """The kept rows as ROWS, column by column."""
        if not kept.rows:
            return ROW_SCHEMA.empty_table()
        positions, parameters, prompts, ids, samples, tunes, pasts = zip(*kept.rows, strict=True)
        reader, numbers, source = self.reader, batch.numbers, batch.locate
        columns: dict[str, Any] = {
            "key": [key.hex() for key in kept.keys],
            "id": ids,
            "sample": samples,
            "prompt": prompts,
            "melody": [tune and tune.uri for tune in tunes],
            "melody_sha256": [tune and tune.sha256 for tune in tunes],
            "continuation": [past and past.uri for past in pasts],
            "continuation_sha256": [past and past.sha256 for past in pasts],
            "seed": kept.seeds,
            "keep_continuation": [reader.keep_continuation(past is not None) for past in pasts],
            "stride_s": [reader.stride_s(p, past is not None) for p, past in zip(parameters, pasts, strict=True)],
            "stems": [reader.separate_stems(tune is not None) for tune in tunes],
            "source": [source(numbers[position]) for position in positions],
        }
        for name in ("duration_s", "frames", "temperature", "top_k", "top_p", "guidance_scale"):
            columns[name] = [getattr(p, name) for p in parameters]
        return pa.Table.from_arrays(
            [pa.array(columns[field.name], field.type) for field in ROW_SCHEMA], schema=ROW_SCHEMA
        )

    def _check(self, batch: SourceBatch, refused: list[InvalidRow]) -> list[tuple]:
        reader, fields, rows = self.reader, batch.fields, len(batch)
        names = tuple(name for name in PARAMETERS if name in fields)
        raws: Any = zip(*(fields[name] for name in names), strict=True) if names else repeat((), rows)
        columns = [
            fields.get(name) or repeat(None, rows) for name in ("prompt", "id", "seed", "melody", "continuation")
        ]
        folder = batch.file.folder
        checked: list[tuple] = []
        for position, (raw, prompt, id, seed, melody, continuation) in enumerate(zip(raws, *columns, strict=True)):
            try:
                parameters = reader.read_parameters(raw, names)
                text = reader.read_prompt(prompt)
                tune = reader.read_uri(melody, "melody") if melody is not None else None
                past = reader.read_uri(continuation, "continuation") if continuation is not None else None
                if tune or not text:
                    reader.check_conditions(text, tune)
                checked.append(
                    (
                        position,
                        parameters,
                        text,
                        reader.read_id(id) if id is not None else None,
                        reader.read_seed(seed) if seed is not None else None,
                        AudioReference(tune, "melody", folder) if tune else None,
                        AudioReference(past, "continuation", folder) if past else None,
                    )
                )
            except RowError as error:
                number = batch.numbers[position]
                refused.append(
                    InvalidRow(
                        number, batch.locate(number), _readable(id), _readable(prompt), error.error_class, str(error)
                    )
                )
        return checked

    def _conditions(self, batch: SourceBatch, checked: list[tuple]) -> dict[AudioReference, HashedAudio | RowError]:
        if "melody" not in batch.fields and "continuation" not in batch.fields:
            return {}
        return self.conditions.look_up(wanted for row in checked for wanted in row[5:] if wanted is not None)


class _Kept:
    """Rows of a batch to make: (position, parameters, prompt, id, sample, melody, continuation), keys, seeds."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []
        self.keys: list[bytes] = []
        self.seeds: list[int] = []


def _readable(value: Any) -> str | None:
    """An id or a prompt for failures/: as text, short, and only what can be written."""
    if value is None:
        return None
    return str(value)[:_SHOWN_PROMPT_CHARACTERS].encode("utf-8", "replace").decode()
