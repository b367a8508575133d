"""Turns the raw values of a row into a request, or says why it cannot be made."""

from collections.abc import Hashable
from dataclasses import dataclass

from musicgen.errors import RowError
from musicgen.generator_spec import GeneratorSpec
from musicgen.job_sections import GenerationSettings
from musicgen.job_types import MAX_PROMPT
from musicgen.manifest.audio_hashes import HashedAudio
from musicgen.manifest.cell_values import check_text, quote_value, read_finite_number, read_integer, read_number
from musicgen.manifest.missing_values import FIRST_CHARACTERS, is_missing, refuse_missing_word
from musicgen.manifest.text_values import check_cell, to_id, to_text
from musicgen.presets import presets_with
from musicgen.request import Request

MAX_ID = 1024
MAX_URI = 4096
_REMEMBERED_PARAMETERS = 1 << 16

PARAMETERS = ("duration_s", "samples", "temperature", "top_k", "top_p", "guidance_scale", "negative_prompt", "steps")
_DEFAULTS = Request()


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """The generation parameters of a row, checked, with the job's defaults filled in.

    Rows with the same values share one object; it is compared by identity, which is fast for a million rows.
    """

    duration_s: float
    frames: int
    samples: int
    temperature: float
    top_k: int
    top_p: float
    guidance_scale: float
    negative_prompt: str
    steps: int | None
    long: bool  # beyond one window of the model


class RowReader:
    """Checks rows against a job and a model. Each distinct set of parameters is checked once.

    Every method raises `RowError` for a value that is invalid.
    """

    def __init__(self, settings: GenerationSettings, spec: GeneratorSpec, model_name: str = "the model"):
        self.settings = settings
        self.spec = spec
        self.model_name = model_name
        self._checked: dict[Hashable, Parameters | str] = {}  # or why they are invalid
        self._controls = {
            control: spec.supports(control) for control in ("melody", "continuation", "long", "unconditional")
        }
        has_own_scale = "guidance_scale" in settings.model_fields_set
        self._guidance_scale = settings.guidance_scale if has_own_scale else spec.default_guidance_scale
        self._controls["melody"] |= spec.supports("style")  # the column `melody` names the style's excerpt then

    def read_parameters(self, values: tuple[object, ...], names: tuple[str, ...]) -> Parameters:
        """Return the parameters of a row: `values` are those of `names`, which are some of `PARAMETERS`."""
        try:
            key: Hashable = (names, values, *map(type, values))
            checked = self._checked.get(key)
        except TypeError:  # a list or an object where a number should be
            key, checked = None, None
        if checked is None:
            try:
                checked = self._check_parameters(dict(zip(names, values, strict=True)))
            except ValueError as error:
                checked = str(error)
            if key is not None:
                if len(self._checked) >= _REMEMBERED_PARAMETERS:
                    self._checked.clear()
                self._checked[key] = checked
        if isinstance(checked, str):
            raise RowError("invalid", checked)
        return checked

    def _check_parameters(self, values: dict[str, object]) -> Parameters:
        defaults = self.settings
        duration_s = self._read_duration(values)
        frames = max(1, round(duration_s * self.spec.frame_rate))
        long = frames > self.spec.max_frames
        if long and not self._controls["long"]:
            limit_s = self.spec.max_frames / self.spec.frame_rate
            models = self._suggest_models("long")
            raise ValueError(
                f"duration_s {duration_s:g} is beyond the {limit_s:g} s of a clip of {self.model_name}{models}"
            )
        return Parameters(
            duration_s=duration_s,
            frames=frames,
            samples=read_integer(values, "samples", defaults.samples),
            temperature=read_number(values, "temperature", defaults.temperature),
            top_k=read_integer(values, "top_k", defaults.top_k),
            top_p=read_number(values, "top_p", defaults.top_p),
            guidance_scale=read_number(values, "guidance_scale", self._guidance_scale),
            negative_prompt=self._read_negative_prompt(values),
            steps=read_integer(values, "steps", defaults.steps or 0) or None,
            long=long,
        )

    def _read_negative_prompt(self, values: dict[str, object]) -> str:
        value = to_text(values.get("negative_prompt"))
        if value is None or value == "":
            return self.settings.negative_prompt
        if not isinstance(value, str):
            raise ValueError(f"negative_prompt is not text: {quote_value(value)}")
        refuse_missing_word(value, "negative_prompt")
        if len(value) > MAX_PROMPT:
            raise ValueError(f"negative_prompt has {len(value)} characters; at most {MAX_PROMPT} are allowed")
        check_text(value, "negative_prompt")
        return value

    def _read_duration(self, values: dict[str, object]) -> float:
        duration_s = read_finite_number(values, "duration_s")
        if duration_s is None:
            return float(self.settings.duration_s)
        if duration_s <= 0:
            raise ValueError(f"duration_s is {quote_value(values['duration_s'])}; it must be more than 0")
        if duration_s > self.settings.max_duration_s:
            raise ValueError(
                f"duration_s is {quote_value(values['duration_s'])}; it must be at most "
                f"{self.settings.max_duration_s:g} (generation.max_duration_s)"
            )
        return duration_s

    def read_prompt(self, value: object) -> str:
        """Return the prompt; empty for a cell without one."""
        if not isinstance(value, str):
            if (value := to_text(value)) is None:
                return ""
            if not isinstance(value, str):
                raise RowError("invalid", f"prompt is not text: {quote_value(value)}")
        if value[:1] in FIRST_CHARACTERS:
            check_cell(refuse_missing_word, value, "prompt")
        if len(value) > MAX_PROMPT:
            raise RowError("invalid", f"prompt has {len(value)} characters; at most {MAX_PROMPT} are allowed")
        if not value.isascii():
            check_cell(check_text, value, "prompt")
        return "" if value.isspace() else value

    def read_id(self, value: object) -> str | None:
        """Return the user's id as text; None for a cell without one."""
        if isinstance(value, str) and value and value[0] not in FIRST_CHARACTERS and "E+" not in value:
            text: str | None = value  # as nearly all are
        else:
            text = check_cell(to_id, value)
        if text is None:
            return None
        if len(text) > MAX_ID:
            raise RowError("invalid", f"id has {len(text)} characters; at most {MAX_ID} are allowed")
        if not text.isascii():
            check_cell(check_text, text, "id")
        return text

    def read_seed(self, value: object) -> int | None:
        """Return the row's own seed; None for a cell without one."""
        return None if is_missing(value) else check_cell(read_integer, {"seed": value}, "seed", 0)

    def read_uri(self, value: object, column: str) -> str | None:
        """Return the URI in the column `melody` or `continuation` as it is written; None for a cell without one."""
        value = to_text(value)
        if is_missing(value):
            return None
        if not isinstance(value, str):
            raise RowError("invalid", f"{column} is not a path or URI: {quote_value(value)}")
        if len(value) > MAX_URI:
            raise RowError("invalid", f"{column} is a URI of {len(value)} characters; at most {MAX_URI} are allowed")
        check_cell(check_text, value, column)
        if not self._controls[column]:
            raise RowError("invalid", f"{self.model_name} takes no {column}{self._suggest_models(column)}")
        return value

    def check_conditions(self, prompt: str, melody: str | None) -> None:
        """Refuse a row with neither prompt nor melody, unless the job and the model allow it.

        A row with both is refused where the model is conditioned on one of them only.
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
                "invalid",
                f"{self.model_name} cannot generate without a prompt{self._suggest_models('unconditional')}",
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
        """Return the request of a checked row. Settings without effect keep their default, so that they do not change
        the key.
        """
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
            negative_prompt=parameters.negative_prompt,
            steps=parameters.steps,
            melody=melody.uri if melody else None,
            melody_sha256=melody.sha256 if melody else None,
            continuation=continuation.uri if continuation else None,
            continuation_sha256=continuation.sha256 if continuation else None,
            keep_continuation=self.keep_continuation(continuation is not None),
            stride_s=self.stride_s(parameters, continuation is not None),
            stems=self.separate_stems(melody is not None),
        )

    def keep_continuation(self, continued: bool) -> bool:
        """Return `keep_continuation` of a row; the default where it has no effect."""
        return self.settings.keep_continuation if continued else _DEFAULTS.keep_continuation

    def stride_s(self, parameters: Parameters, continued: bool) -> float:
        """Return `stride_s` of a row; the default where it has no effect."""
        return self.settings.stride_s if parameters.long or continued else _DEFAULTS.stride_s

    def separate_stems(self, with_melody: bool) -> bool:
        """Return `stems` of a row; the default where it has no effect."""
        return self.settings.stems if with_melody and self.spec.supports("melody") else _DEFAULTS.stems

    def _suggest_models(self, control: str) -> str:
        able = presets_with(control, self.spec.channels)
        return f"; {' or '.join(able[:2])} could (model.name)" if able else ""
