"""From the raw values of one row to a request, or to the reason why not.

The same value gives the same request from CSV (text), JSONL and Parquet (typed): "3", 3 and 3.0 are one number.
"""

import math
from dataclasses import dataclass
from typing import Any

from musicgen.errors import RowError
from musicgen.job import MAX_SEED, GenerationSettings
from musicgen.manifest.audio_hashes import HashedAudio
from musicgen.model.spec import ModelSpec
from musicgen.request import Request

MAX_PROMPT = 8192  # characters; encoders read a few hundred tokens
MAX_ID = 1024
MAX_URI = 4096
MAX_SAMPLES = 10_000

PARAMETERS = ("duration_s", "samples", "temperature", "top_k", "top_p", "guidance_scale")
_DEFAULTS = Request()


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """What a row says about how to generate, checked, with the job's defaults filled in.

    Rows that say the same share one object; it is compared by identity, which is cheap for a million rows.
    """

    duration_s: float
    frames: int
    samples: int
    temperature: float
    top_k: int
    top_p: float
    guidance_scale: float
    long: bool  # beyond one window of the model


class RowReader:
    """Checks rows against a job and a model. Rows repeat their parameters, so each set of them is checked once."""

    def __init__(self, settings: GenerationSettings, spec: ModelSpec, model_name: str = "the model"):
        self.settings = settings
        self.spec = spec
        self.model_name = model_name
        self._known: dict[Any, Parameters | str] = {}
        self._controls = {
            control: spec.supports(control) for control in ("melody", "continuation", "long", "unconditional")
        }
        self._controls["melody"] |= spec.supports("style")  # there the column names the excerpt

    def read_parameters(self, raw: tuple[Any, ...], names: tuple[str, ...]) -> Parameters:
        """The parameters of a row: `raw` are its values of `names`, some of `PARAMETERS`. Raises `RowError`."""
        try:
            key = (names, raw, *map(type, raw))
            found = self._known.get(key)
        except TypeError:  # a list or an object where a number should be
            key, found = None, None
        if found is None:
            try:
                found = self._check(dict(zip(names, raw, strict=True)))
            except ValueError as error:
                found = str(error)
            if key is not None:
                if len(self._known) >= 1 << 16:
                    self._known.clear()
                self._known[key] = found
        if isinstance(found, str):
            raise RowError("invalid", found)
        return found

    def _check(self, raw: dict[str, Any]) -> Parameters:
        job = self.settings
        duration = _read_number(
            raw, "duration_s", job.duration_s, above=0.0, most=job.max_duration_s, knob="generation.max_duration_s"
        )
        frames = max(1, round(duration * self.spec.frame_rate))
        long = frames > self.spec.max_frames
        if long and not self._controls["long"]:
            raise ValueError(
                f"duration_s {duration:g} is beyond the window of {self.model_name}{self._who_can('long')}"
            )
        return Parameters(
            duration_s=duration,
            frames=frames,
            samples=_read_integer(raw, "samples", job.samples, least=1, most=MAX_SAMPLES),
            temperature=_read_number(raw, "temperature", job.temperature, least=0.0, most=100.0),
            top_k=_read_integer(raw, "top_k", job.top_k, least=0, most=1_000_000),
            top_p=_read_number(raw, "top_p", job.top_p, least=0.0, most=1.0),
            guidance_scale=_read_number(raw, "guidance_scale", job.guidance_scale, least=0.0, most=100.0),
            long=long,
        )

    def read_prompt(self, value: Any) -> str:
        """The prompt; empty for a cell without one. Raises `RowError`."""
        if value is None:
            return ""
        if not isinstance(value, str):
            raise RowError("invalid", f"prompt is not text: {quote_value(value)}")
        if len(value) > MAX_PROMPT:
            raise RowError("invalid", f"prompt has {len(value)} characters; at most {MAX_PROMPT} are allowed")
        _check_text(value, "prompt")
        return "" if value.isspace() else value

    def read_id(self, value: Any) -> str | None:
        """The caller's id as text; None for a cell without one. Raises `RowError`."""
        if value is None or value == "":
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
            value = int(value)  # what pandas makes of integers beside an empty cell
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowError("invalid", f"id is neither text nor a whole number: {quote_value(value)}")
        text = str(value)
        if len(text) > MAX_ID:
            raise RowError("invalid", f"id has {len(text)} characters; at most {MAX_ID} are allowed")
        _check_text(text, "id")
        return text

    def read_seed(self, value: Any) -> int | None:
        """The row's own seed; None for a cell without one. Raises `RowError`."""
        if value is None or value == "":
            return None
        if isinstance(value, float) and abs(value) >= 1 << 53:
            raise RowError("invalid", f"seed {value!r} was rounded on its way here; keep seeds as integers or text")
        try:
            return _read_integer({"seed": value}, "seed", 0, least=0, most=MAX_SEED)
        except ValueError as error:
            raise RowError("invalid", str(error)) from None

    def read_uri(self, value: Any, what: str) -> str | None:
        """A melody's or continuation's URI as written; None for a cell without one. Raises `RowError`."""
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise RowError("invalid", f"{what} is not a path or URI: {quote_value(value)}")
        if len(value) > MAX_URI:
            raise RowError("invalid", f"{what} is a URI of {len(value)} characters; at most {MAX_URI} are allowed")
        _check_text(value, what)
        if value.isspace():
            return None
        if not self._controls[what]:
            raise RowError("invalid", f"{self.model_name} takes no {what}{self._who_can(what)}")
        return value

    def check_conditions(self, prompt: str, melody: str | None) -> None:
        """Raise `RowError` for a row that says nothing about its sound, unless the job allows it, or more than is
        heard.
        """
        if prompt and melody and self.spec.accepts_sound_prompt:
            raise RowError(
                "invalid", f"{self.model_name} hears a prompt or a sound (melody), not both: leave one of them empty"
            )
        if prompt or melody:
            return
        if not self.settings.allow_unconditional:
            raise RowError(
                "invalid", "prompt is empty: give one or a melody, or set generation.allow_unconditional: true"
            )
        if not self._controls["unconditional"]:
            raise RowError(
                "invalid", f"{self.model_name} cannot generate without a prompt{self._who_can('unconditional')}"
            )

    def make_request(
        self,
        parameters: Parameters,
        prompt: str,
        id: str | None = None,
        sample: int = 0,
        seed: int | None = None,
        melody: HashedAudio | None = None,
        continuation: HashedAudio | None = None,
    ) -> Request:
        """The request. Settings without effect keep their default."""
        return Request(
            prompt=prompt,
            id=id,
            sample=sample,
            duration_s=parameters.duration_s,
            seed=seed,
            temperature=parameters.temperature,
            top_k=parameters.top_k,
            top_p=parameters.top_p,
            guidance_scale=parameters.guidance_scale,
            melody=melody.uri if melody else None,
            melody_sha256=melody.sha256 if melody else None,
            continuation=continuation.uri if continuation else None,
            continuation_sha256=continuation.sha256 if continuation else None,
            keep_continuation=self.keep_continuation(continuation is not None),
            stride_s=self.stride_s(parameters, continuation is not None),
            stems=self.separate_stems(melody is not None),
        )

    def keep_continuation(self, continued: bool) -> bool:
        """`keep_continuation` of a row. Without effect it must not make another clip of the same sound."""
        return self.settings.keep_continuation if continued else _DEFAULTS.keep_continuation

    def stride_s(self, parameters: Parameters, continued: bool) -> float:
        """`stride_s` of a row, likewise."""
        return self.settings.stride_s if parameters.long or continued else _DEFAULTS.stride_s

    def separate_stems(self, with_melody: bool) -> bool:
        """`stems` of a row, likewise."""
        return self.settings.stems if with_melody and self.spec.kind == "melody" else _DEFAULTS.stems

    def _who_can(self, control: str) -> str:
        from musicgen.presets import presets_with

        able = presets_with(control, self.spec.channels)
        return f"; {' or '.join(able[:2])} could (model.name)" if able else ""


def quote_value(value: Any) -> str:
    """A value for a message, short and on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_text(value: str, what: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError("invalid", f"{what} is not valid UTF-8") from None


def _parse_number(raw: dict[str, Any], name: str) -> float | int | None:
    value = raw.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        try:
            if "_" in text or not text.isascii():
                raise ValueError
            return int(text) if text.lstrip("+-").isdigit() and len(text) < 25 else float(text)
        except ValueError:
            raise ValueError(f"{name} is not a number: {quote_value(value)}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        try:
            if type(value).__name__ == "Decimal":
                return float(value)
        except (ValueError, OverflowError):
            pass
        raise ValueError(f"{name} is not a number: {quote_value(value)}")
    return value


def _read_number(
    raw: dict[str, Any],
    name: str,
    default: float,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    knob: str = "",
) -> float:
    value = _parse_number(raw, name)
    if value is None:
        return float(default)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is not a finite number: {quote_value(raw[name])}")
    if number <= above:
        raise ValueError(f"{name} is {quote_value(raw[name])}; it must be more than {above:g}")
    if number < least:
        raise ValueError(f"{name} is {quote_value(raw[name])}; it must be at least {least:g}")
    if number > most:
        raise ValueError(
            f"{name} is {quote_value(raw[name])}; it must be at most {most:g}{f' ({knob})' if knob else ''}"
        )
    return number


def _read_integer(raw: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = _parse_number(raw, name)
    if value is None:
        return default
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"{name} is not a whole number: {quote_value(raw[name])}")
        value = int(value)
    if not least <= value <= most:
        raise ValueError(f"{name} is {quote_value(raw[name])}; it must be between {least} and {most}")
    return value
