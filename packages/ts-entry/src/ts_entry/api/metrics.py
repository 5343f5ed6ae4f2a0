"""Counters and gauges as Prometheus reads them, under the names that dashboards of serving engines expect."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ts_entry.engine.client import EngineClient
from ts_entry.engine.health import EngineState
from ts_entry.engine.metrics import Histogram

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4.encode()


def render(engine: EngineClient, model: str) -> bytes:
    """All metrics, labelled with the model's name."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(engine, model))
    return generate_latest(registry)


class _Collector:
    def __init__(self, engine: EngineClient, model: str) -> None:
        self._engine = engine
        self._model = model

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._entry()
        yield from self._scheduler()

    def _entry(self) -> Iterator[Metric]:
        metrics, health = self._engine.metrics, self._engine.health
        yield self._gauge("requests_in_flight", "Requests that have not ended.", self._engine.in_flight)
        yield self._gauge("engine_up", "1 while the engine serves.", float(health.state is EngineState.SERVING))
        yield self._counter(
            "engine_generations", "Times that the engine's processes were connected.", health.generation
        )
        yield self._counter("prompt_tokens", "Prompt tokens of requests submitted.", metrics.prompt_tokens)
        yield self._counter("prompt_tokens_cached", "Prompt tokens from the prefix cache.", metrics.cached_tokens)
        yield self._counter("generation_tokens", "Tokens generated.", metrics.generation_tokens)
        finished = CounterMetricFamily(
            "ts:request_success", "Requests that ended, by reason.", labels=["model_name", "finished_reason"]
        )
        for reason, count in metrics.finished.items():
            finished.add_metric([self._model, reason], count)
        yield finished
        yield self._histogram("time_to_first_token_seconds", "Submission to first token.", metrics.time_to_first_token)
        yield self._histogram(
            "inter_token_latency_seconds", "Between tokens of a request.", metrics.inter_token_latency
        )
        yield self._histogram("e2e_request_latency_seconds", "Submission to last token.", metrics.e2e_request_latency)

    def _scheduler(self) -> Iterator[Metric]:
        stats = self._engine.stats
        if stats is None:
            return
        usage = stats.pages_used / stats.pages_total if stats.pages_total else 0.0
        yield self._gauge("num_requests_running", "Requests that hold a slot.", stats.requests_running)
        yield self._gauge("num_requests_waiting", "Requests in the queue.", stats.requests_waiting)
        yield self._gauge("kv_cache_usage_perc", "Part of the KV pages in use, 0 to 1.", usage)
        yield self._counter("prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_query_tokens)
        yield self._counter("prefix_cache_hits", "Prompt tokens found.", stats.prefix_hit_tokens)
        yield self._counter("prefill_tokens", "Prompt tokens computed.", stats.prefill_tokens)
        yield self._counter("decode_tokens", "Tokens decoded.", stats.decode_tokens)
        yield self._counter("draft_tokens", "Positions reserved for drafts.", stats.draft_tokens)
        yield self._counter("accepted_draft_tokens", "Drafts accepted.", stats.accepted_draft_tokens)
        yield self._counter("num_preemptions", "Requests preempted.", stats.preemptions)
        yield self._counter("steps", "Forward steps settled.", stats.steps)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"ts:{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"ts:{name}", text, labels=["model_name"])
        family.add_metric([self._model], value)
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(f"ts:{name}", text, labels=["model_name"])
        family.add_metric([self._model], buckets=histogram.cumulative(), sum_value=histogram.total)
        return family
