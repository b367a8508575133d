"""From a batch as it stands in the manifest to keyed rows, and to rows refused with a reason."""

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pyarrow as pa

from musicgen.errors import RowError
from musicgen.manifest.batch import SourceBatch
from musicgen.manifest.conditions import Condition, Conditions, Wanted
from musicgen.manifest.row import PARAMETERS, RowReader
from musicgen.plan.keys import Keyer
from musicgen.request import Request

# The normalised manifest. Carried columns follow, under their names in the index.
ROWS = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("id", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("prompt", pa.string()),
        pa.field("melody", pa.string()),
        pa.field("melody_sha256", pa.string()),
        pa.field("continuation", pa.string()),
        pa.field("continuation_sha256", pa.string()),
        pa.field("duration_s", pa.float64()),
        pa.field("frames", pa.int32()),
        pa.field("seed", pa.int64()),
        pa.field("temperature", pa.float64()),
        pa.field("top_k", pa.int32()),
        pa.field("top_p", pa.float64()),
        pa.field("guidance_scale", pa.float64()),
        pa.field("keep_continuation", pa.bool_()),
        pa.field("stride_s", pa.float64()),
        pa.field("source", pa.string()),
    ]
)
_SHOWN_PROMPT = 1000


@dataclass(frozen=True, slots=True)
class Refused:
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
    refused: list[Refused]


class Parser:
    """Turns batches into keyed rows."""

    def __init__(self, reader: RowReader, keyer: Keyer, conditions: Conditions):
        self.reader = reader
        self.keyer = keyer
        self.conditions = conditions

    def parse(self, batch: SourceBatch) -> ParsedBatch:
        """Check, hash and key a batch's rows."""
        refused = [Refused(row.number, batch.source(row.number), None, None, "invalid", f"the row {row.reason}") for row in batch.broken]
        checked = self._check(batch, refused)
        found = self._conditions(batch, checked)
        columns: list[list[Any]] = [[] for _ in ROWS]
        keys: list[bytes] = []
        positions: list[int] = []
        appends = [column.append for column in columns]
        for position, parameters, prompt, id, seed, melody, continuation in checked:
            number = batch.numbers[position]
            source = batch.source(number)
            tune = past = None
            if melody is not None or continuation is not None:
                both = [found[wanted] if wanted else None for wanted in (melody, continuation)]
                error = next((item for item in both if isinstance(item, RowError)), None)
                if error is not None:
                    refused.append(Refused(number, source, id, prompt[:_SHOWN_PROMPT], error.error_class, str(error)))
                    continue
                tune, past = (item if isinstance(item, Condition) else None for item in both)
            for sample in range(parameters.samples):
                request = self.reader.request(parameters, prompt, id, sample, seed, tune, past)
                key, effective = self.keyer.key(request, parameters)
                keys.append(key)
                positions.append(position)
                for append, value in zip(appends, _row(request, parameters.frames, key, effective, source), strict=True):
                    append(value)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, ROWS, strict=True)]
        refused.sort(key=lambda row: row.number)
        return ParsedBatch(pa.Table.from_arrays(arrays, schema=ROWS), keys, positions, refused)

    def _check(self, batch: SourceBatch, refused: list[Refused]) -> list[tuple]:
        reader, fields, rows = self.reader, batch.fields, len(batch)
        names = tuple(name for name in PARAMETERS if name in fields)
        raws: Any = zip(*(fields[name] for name in names), strict=True) if names else repeat((), rows)
        columns = [fields.get(name) or repeat(None, rows) for name in ("prompt", "id", "seed", "melody", "continuation")]
        folder = batch.file.folder
        checked: list[tuple] = []
        for position, (raw, prompt, id, seed, melody, continuation) in enumerate(zip(raws, *columns, strict=True)):
            try:
                parameters = reader.parameters(raw, names)
                text = reader.prompt(prompt)
                tune = reader.uri(melody, "melody") if melody is not None else None
                past = reader.uri(continuation, "continuation") if continuation is not None else None
                if not text and not tune:
                    reader.check_conditions(text, tune)
                checked.append(
                    (
                        position,
                        parameters,
                        text,
                        reader.id(id) if id is not None else None,
                        reader.seed(seed) if seed is not None else None,
                        Wanted(tune, "melody", folder) if tune else None,
                        Wanted(past, "continuation", folder) if past else None,
                    )
                )
            except RowError as error:
                number = batch.numbers[position]
                refused.append(Refused(number, batch.source(number), _readable(id), _readable(prompt), error.error_class, str(error)))
        return checked

    def _conditions(self, batch: SourceBatch, checked: list[tuple]) -> dict[Wanted, Condition | RowError]:
        if "melody" not in batch.fields and "continuation" not in batch.fields:
            return {}
        return self.conditions.look_up(wanted for row in checked for wanted in row[5:] if wanted is not None)


def _row(request: Request, frames: int, key: bytes, seed: int, source: str) -> tuple[Any, ...]:
    """The values of ROWS, in order."""
    return (
        key.hex(),
        request.id,
        request.sample,
        request.prompt,
        request.melody,
        request.melody_sha256,
        request.continuation,
        request.continuation_sha256,
        request.duration_s,
        frames,
        seed,
        request.temperature,
        request.top_k,
        request.top_p,
        request.guidance_scale,
        request.keep_continuation,
        request.stride_s,
        source,
    )


def requests(rows: pa.Table) -> list[Request]:
    """The resolved requests of normalised rows."""
    columns = {name: rows[name].to_pylist() for name in ROWS.names if name not in ("key", "frames", "source")}
    return [Request(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def _readable(value: Any) -> str | None:
    """An id or a prompt for failures/: as text, short, and only what can be written."""
    if value is None:
        return None
    return str(value)[:_SHOWN_PROMPT].encode("utf-8", "replace").decode()
