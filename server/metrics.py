"""Prometheus metrics of the gateway, read from its parts when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.direct.connections import Connections, Ended
from server.engines.pool import EnginePool
from server.generation.line import Line
from server.store.counts import StoredCounts
from server.usage import Accountant

_ENGINE_GAUGES = (
    ("running", "Sequences an engine generates now"),
    ("waiting", "Sequences that wait in an engine"),
    ("kv_usage", "Share of an engine's key-value memory in use"),
)
_ENGINE_COUNTERS = (
    ("adapter_hits", "Requests whose adapter was resident"),
    ("adapter_loads", "Adapters loaded"),
    ("adapter_evictions", "Adapters evicted"),
    ("prompt_tokens", "Prompt tokens read by an engine"),
    ("cached_tokens", "Prompt tokens an engine had in its cache"),
    ("generated_tokens", "Tokens an engine generated"),
)


class AnswerCounts(Protocol):
    @property
    def answers(self) -> dict[tuple[str, str, int], int]: ...
    @property
    def num_lost(self) -> int: ...


class GatewayCollector(Collector):
    def __init__(
        self,
        access_log: AnswerCounts,
        pool: EnginePool,
        accountant: Accountant,
        lines: Mapping[str, Line],
        connections: Connections,
        stored: StoredCounts,
    ) -> None:
        self._access_log = access_log
        self._connections = connections
        self._pool = pool
        self._accountant = accountant
        self._lines = lines
        self._stored = stored

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "tuneyard_http_requests", "Answers", labels=["method", "route", "status"]
        )
        for (method, route, status), count in sorted(self._access_log.answers.items()):
            requests.add_metric([method, route, str(status)], count)
        yield requests
        lost = CounterMetricFamily(
            "tuneyard_access_lines_lost", "Access log lines that could not be written"
        )
        lost.add_metric([], self._access_log.num_lost)
        yield lost
        tokens = CounterMetricFamily(
            "tuneyard_tokens", "Tokens accounted by this gateway", labels=["kind"]
        )
        for kind, count in self._accountant.served.items():
            tokens.add_metric([kind], count)
        yield tokens
        yield from self._objects()
        yield from self._callers()
        yield from self._usage()
        yield from self._engines()
        yield from self._routing()
        yield from self._waiting()

    def _objects(self) -> Iterator[Metric]:
        for name, text, counts in (
            ("jobs", "Fine-tuning jobs of all projects", self._stored.jobs),
            ("uploads", "Uploads that are kept", self._stored.uploads),
            ("webhook_deliveries", "Webhooks that are kept", self._stored.webhook_deliveries),
        ):
            gauge = GaugeMetricFamily(f"tuneyard_{name}", text, labels=["state"])
            for state, count in sorted(counts.items()):
                gauge.add_metric([state], count)
            yield gauge

    def _callers(self) -> Iterator[Metric]:
        for name, text, number in (
            ("open", "Connections of callers", self._connections.num_open),
            ("max", "Connections that callers may have", self._connections.max_open),
        ):
            gauge = GaugeMetricFamily(f"tuneyard_connections_{name}", text)
            gauge.add_metric([], number)
            yield gauge
        ended = CounterMetricFamily(
            "tuneyard_connections_ended", "Connections ended by the gateway", labels=["reason"]
        )
        for reason in Ended:
            ended.add_metric([reason.value], self._connections.ended[reason])
        yield ended

    def _usage(self) -> Iterator[Metric]:
        unwritten = GaugeMetricFamily(
            "tuneyard_usage_unwritten", "Requests whose usage the store has not taken yet"
        )
        unwritten.add_metric([], self._accountant.num_unwritten)
        yield unwritten
        dropped = CounterMetricFamily(
            "tuneyard_usage_dropped", "Usage that was not kept until it was written", labels=["of"]
        )
        for kind, count in self._accountant.dropped.items():
            dropped.add_metric([kind], count)
        yield dropped

    def _engines(self) -> Iterator[Metric]:
        connections = self._pool.connections()
        load = GaugeMetricFamily(
            "tuneyard_engine_requests",
            "Requests of this gateway under way at an engine",
            labels=["engine", "model"],
        )
        for connection in connections:
            load.add_metric([connection.engine_id, connection.model_id], connection.num_requests)
        yield load
        resident = GaugeMetricFamily(
            "tuneyard_engine_adapters", "Adapters an engine holds", labels=["engine", "model"]
        )
        for connection in connections:
            resident.add_metric(
                [connection.engine_id, connection.model_id], len(connection.stats.adapters)
            )
        yield resident
        sent = CounterMetricFamily(
            "tuneyard_engine_adapters_sent",
            "Adapters whose files went to an engine on another host",
            labels=["engine", "model"],
        )
        for connection in connections:
            sent.add_metric(
                [connection.engine_id, connection.model_id], connection.num_adapters_sent
            )
        yield sent
        for kind, fields in (
            (GaugeMetricFamily, _ENGINE_GAUGES),
            (CounterMetricFamily, _ENGINE_COUNTERS),
        ):
            for field, text in fields:
                family = kind(f"tuneyard_engine_{field}", text, labels=["engine", "model"])
                for connection in connections:
                    labels = [connection.engine_id, connection.model_id]
                    family.add_metric(labels, getattr(connection.stats, field))
                yield family

    def _routing(self) -> Iterator[Metric]:
        pool = self._pool
        for name, text, label, counts in (
            ("routed", "Requests given to an engine, by what decided it", "by", pool.num_choices),
            ("retries", "Requests given to another engine", "after", pool.num_retries),
        ):
            family = CounterMetricFamily(f"tuneyard_{name}", text, labels=["model", label])
            for labels, count in sorted(counts.items()):
                family.add_metric(labels, count)
            yield family
        draining = GaugeMetricFamily(
            "tuneyard_engines_draining", "Engines that are to go and still have requests"
        )
        draining.add_metric([], len(pool.draining))
        yield draining
        hanging = GaugeMetricFamily("tuneyard_engines_hanging", "Engines that say nothing any more")
        hanging.add_metric([], len(pool.hanging))
        yield hanging

    def _waiting(self) -> Iterator[Metric]:
        for kind, field, text in (
            (GaugeMetricFamily, "inside", "Requests under way of a model with max_concurrent"),
            (GaugeMetricFamily, "waiting", "Requests that wait in a model's line"),
            (CounterMetricFamily, "waited", "Requests that had to wait in a model's line"),
            (CounterMetricFamily, "refused", "Requests refused as a model's line was full"),
        ):
            family = kind(f"tuneyard_line_{field}", text, labels=["model"])
            for model, line in self._lines.items():
                family.add_metric([model], getattr(line, f"num_{field}"))
            yield family


def render_metrics(collector: Collector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
