"""How much audio a run had made at which time, in a bounded number of points."""

_MOST_POINTS = 120
_FIRST_INTERVAL_S = 1.0


class Timeline:
    """Points (seconds since the start, seconds of audio made until then). Of a long run they are further apart."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._interval_s = _FIRST_INTERVAL_S

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """The points so far, evenly spaced but for the last."""
        return tuple(self._points)

    def add(self, second: float, audio_s: float) -> None:
        """Take the audio made until then. Of points that are nearer than the interval only the last is kept."""
        point = (round(float(second), 2), round(float(audio_s), 2))
        if len(self._points) > 1 and second - self._points[-2][0] < self._interval_s:
            self._points[-1] = point
            return
        self._points.append(point)
        if len(self._points) > _MOST_POINTS:
            del self._points[1::2]
            self._interval_s *= 2
