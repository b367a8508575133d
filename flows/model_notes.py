"""Says which model a job runs, for `plan` and `run`."""

from flows.own_command import own_command
from flows.stages import JobContext
from musicgen.presets import find_preset


def describe_model(context: JobContext) -> str:
    """Return the model with its size, sound and device: `embedded (7M parameters, 16 kHz mono) on auto`."""
    name, spec = context.job.model.name, context.checkpoint.spec
    preset = find_preset(name)
    size = f"{preset.parameters / 1e6:,.0f}M parameters, " if preset is not None and preset.parameters else ""
    channels = "stereo" if spec.channels == 2 else "mono"
    device = context.job.model.device
    where = "" if device == "auto" else f" on {device}"
    return f"{name} ({size}{spec.sample_rate / 1000:g} kHz {channels}){where}"


def note_default_model(context: JobContext) -> str:
    """Return a note if the job names no model, so that nobody fills a dataset with the small one by mistake."""
    if "name" in context.job.model.model_fields_set:
        return ""
    name, listing = context.job.model.name, own_command("models")
    return f"No model was named, so it is {name}; `{listing}` lists the others (--model NAME)."
