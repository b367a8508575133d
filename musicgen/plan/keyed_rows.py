"""From a batch of manifest rows to rows with keys, and to invalid rows with their reasons."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import pyarrow as pa

from musicgen.errors import RowError
from musicgen.manifest.audio_hashes import AudioHashes, AudioReference, HashedAudio
from musicgen.manifest.row import PARAMETERS, Parameters, RowReader
from musicgen.manifest.source_batch import SourceBatch
from musicgen.plan.invalid_rows import SHOWN_CHARACTERS, InvalidRow
from musicgen.plan.keys import Keyer
from musicgen.plan.row_schema import ROW_SCHEMA

PIECE_ROWS = 8192
_OF_PARAMETERS = tuple(name for name in ("frames", *PARAMETERS) if name in ROW_SCHEMA.names)


class _CheckedRow(NamedTuple):
    """A manifest row whose values are valid; its audio files are not hashed yet."""

    position: int  # in the batch
    parameters: Parameters
    prompt: str
    id: str | None
    seed: int | None
    melody: AudioReference | None
    continuation: AudioReference | None


# One clip of a manifest row (a row asks for one or several samples): the row's position in the batch, parameters,
# prompt, id, sample, melody, continuation, key, effective seed. A plain tuple is made faster than one with names.
_KeyedRow = tuple[int, Parameters, str, str | None, int, HashedAudio | None, HashedAudio | None, bytes, int]


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """Keyed rows of one batch, the positions of their manifest rows in it, and the batch's invalid rows."""

    rows: pa.Table  # ROW_SCHEMA
    keys: list[bytes]
    positions: list[int]
    invalid: list[InvalidRow]


class BatchParser:
    """Turns batches of manifest rows into keyed rows."""

    def __init__(self, reader: RowReader, keyer: Keyer, audio_hashes: AudioHashes):
        self.reader = reader
        self.keyer = keyer
        self.audio_hashes = audio_hashes

    def parse(self, batch: SourceBatch) -> Iterator[ParsedBatch]:
        """Check, hash and key a batch's rows, in pieces of `PIECE_ROWS`, since a row with many samples is many rows.

        The last piece has the invalid rows.
        """
        invalid = [
            InvalidRow(row.number, batch.locate(row.number), None, None, "invalid", f"the row {row.reason}")
            for row in batch.unparsable
        ]
        checked = self._check_rows(batch, invalid)
        hashed = self._hash_audio(batch, checked)
        piece: list[_KeyedRow] = []
        for row in checked:
            melody = hashed[row.melody] if row.melody is not None else None
            continuation = hashed[row.continuation] if row.continuation is not None else None
            if isinstance(melody, RowError):
                invalid.append(_refuse_checked_row(batch, row, melody))
                continue
            if isinstance(continuation, RowError):
                invalid.append(_refuse_checked_row(batch, row, continuation))
                continue
            for sample in range(row.parameters.samples):
                if len(piece) >= PIECE_ROWS:
                    yield self._build_piece(batch, piece, [])
                    piece = []
                _, parameters, prompt, id, own_seed, _, _ = row
                key, seed = self.keyer.key(
                    parameters, prompt, id, sample, own_seed, melody, continuation, self.reader.make_request
                )
                piece.append((row.position, parameters, prompt, id, sample, melody, continuation, key, seed))
        invalid.sort(key=lambda row: row.number)
        yield self._build_piece(batch, piece, invalid)

    def _check_rows(self, batch: SourceBatch, invalid: list[InvalidRow]) -> list[_CheckedRow]:
        """Return the valid rows; the others are appended to `invalid`."""
        reader, fields, count = self.reader, batch.fields, len(batch)
        names = tuple(name for name in PARAMETERS if name in fields)
        parameters_raw: Iterable[tuple[object, ...]] = (
            zip(*(fields[name] for name in names), strict=True) if names else repeat((), count)
        )
        columns = [
            fields.get(name) or repeat(None, count) for name in ("prompt", "id", "seed", "melody", "continuation")
        ]
        folder = batch.file.folder
        checked: list[_CheckedRow] = []
        for position, (values, prompt, id, seed, melody, continuation) in enumerate(
            zip(parameters_raw, *columns, strict=True)
        ):
            try:
                parameters = reader.read_parameters(values, names)
                text = reader.read_prompt(prompt)
                melody_uri = reader.read_uri(melody, "melody") if melody is not None else None
                continuation_uri = reader.read_uri(continuation, "continuation") if continuation is not None else None
                if melody_uri or not text:
                    reader.check_conditions(text, melody_uri)
                source = batch.locate(batch.numbers[position]) if melody_uri or continuation_uri else ""
                row = _CheckedRow(
                    position,
                    parameters,
                    text,
                    reader.read_id(id) if id is not None else None,
                    reader.read_seed(seed) if seed is not None else None,
                    AudioReference(melody_uri, "melody", folder, source) if melody_uri else None,
                    AudioReference(continuation_uri, "continuation", folder, source) if continuation_uri else None,
                )
                checked.append(row)
            except RowError as error:
                invalid.append(_refuse_row(batch, position, _to_readable(id), _to_readable(prompt), error))
        return checked

    def _hash_audio(
        self, batch: SourceBatch, rows: Sequence[_CheckedRow]
    ) -> dict[AudioReference, HashedAudio | RowError]:
        if "melody" not in batch.fields and "continuation" not in batch.fields:
            return {}
        references = (reference for row in rows for reference in (row.melody, row.continuation))
        return self.audio_hashes.look_up(reference for reference in references if reference is not None)

    def _build_piece(self, batch: SourceBatch, rows: Sequence[_KeyedRow], invalid: list[InvalidRow]) -> ParsedBatch:
        """Return the rows as a table, with the invalid rows."""
        fields = zip(*rows, strict=True) if rows else ((),) * 9
        positions, parameters, prompts, ids, samples, melodies, continuations, keys, seeds = fields
        columns: dict[str, Sequence[object]] = {
            "key": [key.hex() for key in keys],
            "id": ids,
            "sample": samples,
            "prompt": prompts,
            "seed": seeds,
            "source": [batch.locate(batch.numbers[position]) for position in positions],
        }
        for name, audio in (("melody", melodies), ("continuation", continuations)):
            given = any(audio)  # few manifests have any
            columns[name] = [item and item.uri for item in audio] if given else audio
            columns[f"{name}_sha256"] = [item and item.sha256 for item in audio] if given else audio
        settings = self._build_settings(zip(parameters, map(bool, melodies), map(bool, continuations), strict=True))
        arrays = [
            settings[field.name] if field.name in settings else pa.array(columns[field.name], field.type)
            for field in ROW_SCHEMA
        ]
        table = pa.Table.from_arrays(arrays, schema=ROW_SCHEMA)
        return ParsedBatch(table, list(keys), list(positions), invalid)

    def _build_settings(self, rows: Iterable[tuple[Parameters, bool, bool]]) -> dict[str, pa.Array]:
        """Return the columns that follow from a row's parameters and from whether it has a melody, a continuation."""
        reader = self.reader
        kinds: dict[tuple[Parameters, bool, bool], int] = {}
        indices = pa.array([kinds.setdefault(row, len(kinds)) for row in rows], pa.int32())
        values: dict[str, list[object]] = {
            name: [getattr(parameters, name) for parameters, _, _ in kinds] for name in _OF_PARAMETERS
        }
        values["keep_continuation"] = [reader.keep_continuation(continued) for _, _, continued in kinds]
        values["stride_s"] = [reader.stride_s(parameters, continued) for parameters, _, continued in kinds]
        values["stems"] = [reader.separate_stems(with_melody) for _, with_melody, _ in kinds]
        return {name: pa.array(of_kind, ROW_SCHEMA.field(name).type).take(indices) for name, of_kind in values.items()}


def _refuse_checked_row(batch: SourceBatch, row: _CheckedRow, error: RowError) -> InvalidRow:
    return _refuse_row(batch, row.position, row.id, row.prompt[:SHOWN_CHARACTERS], error)


def _refuse_row(batch: SourceBatch, position: int, id: str | None, prompt: str | None, error: RowError) -> InvalidRow:
    number = batch.numbers[position]
    return InvalidRow(number, batch.locate(number), id, prompt, error.error_class, str(error))


def _to_readable(value: object) -> str | None:
    """Return an id or a prompt as text for failures/: shortened, and without what UTF-8 cannot hold."""
    if value is None:
        return None
    return str(value)[:SHOWN_CHARACTERS].encode("utf-8", "replace").decode()
