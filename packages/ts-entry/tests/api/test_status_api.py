"""Models, health, readiness and metrics."""

from prometheus_client.parser import text_string_to_metric_families
from ts_entry.engine.health import SILENT_SECONDS, STUCK_SECONDS, EngineState, HealthMonitor
from ts_entry.engine.metrics import Histogram
from ts_protocol.messages import Heartbeat, Stats

CHAT = {"model": "kimi-k2.5", "messages": [{"role": "user", "content": "Hello"}]}


def test_models_tell_the_miniature_from_the_real_one(run_bench, make_reply):
    async def scenario(bench):
        cards = (await bench.http.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["kimi-k2.5-mini", "kimi-k2.5"]
        assert all(card["root"] == "kimi-k2.5-mini" and card["miniature"] for card in cards)
        assert cards[0]["max_model_len"] == 2048
        assert (await bench.http.get("/v1/models/kimi-k2.5")).json() == cards[1]

    run_bench(scenario, make_reply([65]))


def test_health_shows_progress(run_bench, make_reply):
    async def scenario(bench):
        bench.engine.heartbeat(Heartbeat(role="scheduler", rank=0, steps=7))
        bench.engine.on_message(stats(), [])
        health = (await bench.http.get("/health")).json()
        assert health["status"] == "ok"
        assert health["processes"][0]["steps"] == 7
        assert health["processes"][0]["heartbeat_age_s"] < 5
        assert health["scheduler"]["pages_total"] == 40
        assert (await bench.http.get("/readiness")).json() == {"status": "ready"}
        bench.engine.starting("loading weights, 40%")
        assert (await bench.http.get("/readiness")).json()["reason"] == "loading weights, 40%"
        assert (await bench.http.get("/health")).status_code == 503
        response = await bench.http.post("/v1/chat/completions", json=CHAT)
        assert response.status_code == 503
        assert response.json()["error"]["message"] == "Loading weights, 40%."

    run_bench(scenario, make_reply([65]))


def stats():
    return Stats(
        requests_running=2, requests_waiting=3, pages_used=10, pages_total=40, prefix_query_tokens=100,
        prefix_hit_tokens=90, prefill_tokens=10, decode_tokens=20, preemptions=1, steps=30, draft_tokens=60,
        accepted_draft_tokens=7,
    )  # fmt: skip


def test_metrics_have_the_expected_names(run_bench, make_reply):
    async def scenario(bench):
        for _ in range(2):
            await bench.http.post("/v1/chat/completions", json=CHAT)
        bench.engine.on_message(stats(), [])
        response = await bench.http.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        samples = {}
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                assert sample.labels["model_name"] == "kimi-k2.5-mini"
                extra = sample.labels.get("le") or sample.labels.get("finished_reason") or ""
                samples[sample.name, extra] = sample.value
        prompt = len(bench.scheduler.submits[0][1])
        assert samples["ts:prompt_tokens_total", ""] == 2 * prompt
        assert samples["ts:prompt_tokens_cached_total", ""] == 6
        assert samples["ts:generation_tokens_total", ""] == 8
        assert samples["ts:request_success_total", "stop"] == 2
        assert samples["ts:time_to_first_token_seconds_count", ""] == 2
        assert samples["ts:time_to_first_token_seconds_bucket", "+Inf"] == 2
        assert samples["ts:inter_token_latency_seconds_count", ""] == 6
        assert samples["ts:e2e_request_latency_seconds_count", ""] == 2
        assert samples["ts:num_requests_running", ""] == 2
        assert samples["ts:num_requests_waiting", ""] == 3
        assert samples["ts:kv_cache_usage_perc", ""] == 0.25
        assert samples["ts:prefix_cache_queries_total", ""] == 100
        assert samples["ts:prefix_cache_hits_total", ""] == 90
        assert samples["ts:num_preemptions_total", ""] == 1
        assert samples["ts:draft_tokens_total", ""] == 60
        assert samples["ts:accepted_draft_tokens_total", ""] == 7

    run_bench(scenario, make_reply([65, 66, 67], cached=3))


def test_histograms_count_like_prometheus():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        histogram.observe(value)
    histogram.observe(2.0, times=3)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 6.0), ("+Inf", 7.0)]
    assert histogram.total == 16.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_silence_and_standstill_are_trouble():
    clock = Clock()
    monitor = HealthMonitor(clock=clock)
    assert monitor.trouble() is not None
    monitor.restart()
    monitor.set(EngineState.SERVING)

    def beat(steps):
        monitor.heartbeat(Heartbeat(role="scheduler", rank=0, steps=steps))

    beat(1)
    clock.now = STUCK_SECONDS * 2
    beat(1)
    assert monitor.trouble() is None  # idle: no step is expected
    monitor.busy(1)
    clock.now += STUCK_SECONDS - 1
    beat(1)
    assert monitor.trouble() is None
    clock.now += 2
    beat(1)
    assert "no step" in monitor.trouble()
    beat(2)
    assert monitor.trouble() is None
    clock.now += SILENT_SECONDS + 1
    assert "heartbeat" in monitor.trouble()
    monitor.restart()
    assert monitor.trouble() is None
