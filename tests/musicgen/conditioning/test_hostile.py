"""Hostile melodies in a bucket: each refused with its reason, in bounded memory and time."""

import json
import os
import subprocess
import sys

from musicgen.storage import open_store
from tests.conftest import S3
from tests.musicgen.conditioning.hostile import BOMB_HZ, bomb, files, forge_length
from tests.musicgen.conditioning.music import encoded, tune

GROWTH_KB = 64_000  # twice what a fetched file may keep in memory, and a buffer of the store's

CODE = """
import json, resource, sys
import musicgen.audio.read as module
from musicgen.audio.fetch import fetch_audio
from musicgen.errors import RowError

def hear(uri):
    try:
        with fetch_audio(uri) as file:
            return str(module.decode_excerpt(file.file, sample_rate=32_000, seconds=30.0, name=uri).shape)
    except RowError as error:
        return f"{error.error_class}: {error}"

folder, *names = sys.argv[1:]
assert hear(f"{folder}/good.wav") == "(1, 960000)"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = {name: hear(f"{folder}/{name}") for name in names}
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, told]))
"""


def test_each_is_refused_in_bounded_memory_and_time(s3: S3) -> None:
    """Fetched and decoded one after the other, in a process whose memory is looked at. Together they hold 50 hours."""
    store = open_store(s3.uri)
    store.write("good.wav", encoded(tune(40.0)))
    for name, (data, _) in files().items():
        store.write(name, data)
    half_an_hour = forge_length(bomb(), BOMB_HZ * 1799)  # allowed: the first 30 s are heard, the rest is not looked at
    store.write("bomb.flac", half_an_hour)
    command = [sys.executable, "-c", CODE, s3.uri, *files(), "bomb.flac"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **s3.env}, timeout=60)
    grown, told = json.loads(done.stdout)
    assert told.pop("bomb.flac") == "(1, 960000)"
    for name, (_, says) in files().items():
        assert told[name].startswith("melody: melody s3://"), told[name]
        assert says in told[name]
        assert name in told[name]
    assert len(told) == len(files())
    assert grown < GROWTH_KB
