"""What a server counts, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """Counts of one server.

    Args:
        engine: `Engine`.

    Example:

    >>> metrics = Metrics(engine=None)
    >>> metrics.done("/v1/completions", 200, 0.5)
    >>> b'code="200",path="/v1/completions"' in metrics.text()
    True
    """

    def __init__(self, engine):
        self._registry = CollectorRegistry()
        own = {"registry": self._registry, "namespace": "t5gemma2"}
        self._requests = Counter(
            "requests", "Requests by path and status.", ["path", "code"], **own
        )
        self._seconds = Histogram(
            "request_seconds",
            "Until an answer or its stream was whole.",
            ["path"],
            buckets=_SECONDS,
            **own,
        )
        self._first = Histogram("first_token_seconds", "Until it began.", buckets=_SECONDS, **own)
        self._read = Counter("tokens_read", "Tokens of inputs.", **own)
        self._written = Counter("tokens_written", "New tokens.", **own)
        if engine is None:
            return
        for name, about, value in (
            ("texts_waiting", "Texts that wait for a place.", lambda: engine.waiting),
            ("texts_running", "Texts that are being written.", lambda: engine.running),
            ("rows_encoded", "Inputs that were encoded.", lambda: engine.counts["encoded"]),
            ("rows_shared", "Inputs encoded already.", lambda: engine.counts["shared"]),
            ("chunks", "Calls of the decoder's loop.", lambda: engine.counts["chunks"]),
        ):
            Gauge(name, about, **own).set_function(value)

    def done(self, path, code, seconds):
        """Counts a request that has ended."""
        self._requests.labels(path=path, code=str(code)).inc()
        self._seconds.labels(path=path).observe(seconds)

    def began(self, seconds):
        """Notes how long the first token took."""
        self._first.observe(seconds)

    def tokens(self, read, written):
        """Counts tokens."""
        self._read.inc(read)
        self._written.inc(written)

    def text(self):
        """Bytes, in Prometheus's text format."""
        return generate_latest(self._registry)
