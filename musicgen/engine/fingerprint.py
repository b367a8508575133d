"""What the bits of an engine's clips may depend on besides the request."""

import json
from importlib.metadata import version

import torch

from musicgen.model.cuda_settings import cuda_versions
from musicgen.version import package_version


def format_fingerprint(
    device: torch.device,
    dtype: torch.dtype,
    path: str,
    slots: int,
    threads: int,
    self_check: str | None,
    halved_from: int | None,
) -> str:
    """The fingerprint as JSON: the index column `engine`.

    `path` names the decoder's operations; `self_check` is what `check_reproducible` said, None if it did not run;
    `halved_from` are the slots that were planned, if there are fewer now.
    """
    parts: dict[str, str | int] = {
        "musicgen": package_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "path": path,
        "slots": slots,
        "threads": threads,
    }
    if device.type == "cpu":  # what text encoder, codec and conditioners compute with
        parts["vectors"] = torch.backends.cpu.get_cpu_capability()
    else:
        parts.update(cuda_versions())
    if self_check is not None:
        parts["self_check"] = self_check
    if halved_from is not None:
        parts["halved_from"] = halved_from
    return json.dumps(parts, separators=(",", ":"))
