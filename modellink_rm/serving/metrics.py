"""What /metrics tells Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServerMetrics:
    """Counters of one server.

    Args:
        num_waiting: responses that wait at this moment.
    """

    def __init__(self, num_waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        prefix = "modellink_rm"
        waiting = Gauge(f"{prefix}_waiting_responses", "Responses in the queue.", registry=registry)
        waiting.set_function(num_waiting)
        self._requests = Counter(
            f"{prefix}_requests", "Requests that were answered.", ("route", "status"), registry=registry
        )
        self._latency = Histogram(
            f"{prefix}_request_seconds",
            "Seconds from a request's body to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._left = Counter(f"{prefix}_clients_left", "Requests whose client left.", registry=registry)
        self._responses = Counter(f"{prefix}_responses_scored", "Responses scored.", registry=registry)
        self._truncated = Counter(
            f"{prefix}_conversations_truncated",
            "Conversations that were cut to --seq-length.",
            registry=registry,
        )
        self._tokens = Counter(
            f"{prefix}_tokens_scored",
            "Tokens scored, a prompt counted with each response.",
            registry=registry,
        )
        self._computed = Counter(
            f"{prefix}_tokens_computed",
            "Tokens computed, a shared beginning counted once.",
            registry=registry,
        )
        self._batch_rows = Histogram(
            f"{prefix}_batch_responses", "Responses in a batch.", buckets=_ROWS, registry=registry
        )
        self._batch_seconds = Histogram(
            f"{prefix}_batch_seconds", "Seconds of a batch.", buckets=_SECONDS, registry=registry
        )

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def count_client_left(self) -> None:
        """Count a request that nobody waits for any more."""
        self._left.inc()

    def count_truncated(self, number: int) -> None:
        """Count conversations that were cut."""
        self._truncated.inc(number)

    def count_batch(self, *, num_rows: int, num_tokens: int, num_computed: int, seconds: float) -> None:
        """Count a batch that was scored."""
        self._responses.inc(num_rows)
        self._tokens.inc(num_tokens)
        self._computed.inc(num_computed)
        self._batch_rows.observe(num_rows)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self._registry)
