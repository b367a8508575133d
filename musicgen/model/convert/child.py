"""The subprocess of a conversion: it leaves the network, opens the pickles and writes the new folder.

The request is one JSON argument, the answers are JSON lines on stdout: progress, then the result or an error.
"""

import json
import sys
from pathlib import Path

from musicgen.errors import ModelError, first_line
from musicgen.model.convert.isolation import leave_network


def main() -> int:
    """Serve the request in the first argument; returns the exit status."""
    settle_isolation = leave_network()  # before torch, whose threads would forbid it
    from musicgen.model.convert import audiocraft_format, pickled_format

    isolation = settle_isolation()
    request = json.loads(sys.argv[1])
    source, folders = Path(request["source"]), {name: Path(path) for name, path in request["folders"].items()}
    try:
        if request["format"] == "audiocraft":
            checkpoint = audiocraft_format.AudiocraftCheckpoint(source)
            if request["output"] is None:
                return _answer(needs=checkpoint.needs(), isolation=isolation)
            converted = checkpoint.convert(folders)
        else:
            converted = pickled_format.convert_pickled(source)
        converted.write(Path(request["output"]), _report_bytes)
    except ModelError as error:
        return _answer(error=str(error))
    except OSError as error:
        return _answer(error=f"cannot be converted: {first_line(error)}")
    return _answer(tensors=len(converted.tensors), isolation=isolation)


def _report_bytes(done: int, total: int) -> None:
    _answer(done=done, total=total)


def _answer(**values: object) -> int:
    print(json.dumps(values), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
