"""A user's mistakes: one line, exit 2, nothing written, no Ray and no Prefect."""

from collections.abc import Callable
from pathlib import Path

import pytest

from musicgen.storage import open_store
from tests.conftest import S3
from tests.flows.conftest import Cli

pytestmark = pytest.mark.timeout(290, func_only=True)


@pytest.fixture
def mistakes(
    write_rows: Callable[..., Path], s3: S3, tmp_path: Path
) -> dict[str, tuple[list[str], dict[str, str], str]]:
    """Mistake -> (arguments, environment, what the message must name)."""
    good = str(write_rows([{"prompt": "a"}], "good.csv"))
    no_prompt = str(write_rows([{"caption": "a"}], "no_prompt.csv"))
    empty = str(write_rows([], "empty.csv"))
    job = tmp_path / "job.yaml"
    job.write_text(f"manifest: {{uri: {good}}}\noutput: {{uri: {s3.uri}}}\ngeneration: {{duration: 3}}\n")
    here = ["--output", s3.uri]
    return {
        "misspelt key": ([str(job)], {}, "duration_s"),
        "misspelt --set": (["--manifest", good, *here, "--set", "cluster.actor=2"], {}, "cluster.actors"),
        "no job": ([], {}, "--manifest"),
        "job file absent": ([str(tmp_path / "absent.yaml")], {}, "absent.yaml"),
        "missing bucket": (["--manifest", good, "--output", "s3://no-such-bucket/x"], {}, "no-such-bucket"),
        "wrong credentials": (["--manifest", good, *here], {"AWS_SECRET_ACCESS_KEY": "wrong"}, "secret key"),
        "missing column": (["--manifest", no_prompt, *here], {}, "prompt"),
        "empty manifest": (["--manifest", empty, *here], {}, "empty.csv"),
        "no manifest": (["--manifest", str(tmp_path / "none.csv"), *here], {}, "none.csv"),
        "unknown model": (["--manifest", good, *here, "--model", "musicgen-smal"], {}, "musicgen-small"),
        "Prefect away": (["--manifest", good, *here], {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "PREFECT_API_URL"),
        "Ray away": (["--manifest", good, *here, "--set", "cluster.address=127.0.0.1:9"], {}, "cluster.address"),
    }


def test_each_mistake_is_one_line_and_exit_2_and_writes_nothing(mistakes, cli: Cli, s3: S3):
    started = {}
    faults = []
    names = list(mistakes)
    for first in range(0, len(names), 3):  # three at a time on two cores
        for name in names[first : first + 3]:
            args, env, _ = mistakes[name]
            started[name] = cli.start("run", *args, **{**s3.env, "HF_HUB_OFFLINE": "1", **env})
        for name in names[first : first + 3]:
            out, err = started[name].communicate(timeout=120)
            named = mistakes[name][2]
            lines = err.strip().splitlines()
            if (
                started[name].returncode != 2
                or out
                or len(lines) != 1
                or named.lower() not in err.lower()
                or "Traceback" in err
            ):
                faults.append(f"{name}: exit {started[name].returncode}, stdout {out!r}, stderr {err!r}")
    assert not faults, "\n".join(faults)

    assert list(open_store(s3.uri).list()) == []
