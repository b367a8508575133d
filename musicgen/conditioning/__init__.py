"""What a clip is conditioned on besides its text: a melody, a continuation, a style excerpt.

The way of a condition: URI -> `fetch` (bounded bytes, hash) -> `decode` (bounded seconds, mono or stereo at the rate
asked for) -> `chroma` or the codec -> `Conditioner.prepare`, which the engine calls when it admits a request.

Nothing heavy is imported here: `fetch` also serves the planner and the command line.
"""
