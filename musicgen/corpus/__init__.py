"""Music to train on, made on the spot: composed or taken from old tunes, arranged, rendered, and described in words."""

from musicgen.corpus.write import write_corpus

__all__ = ["write_corpus"]
