"""The real command with fake engine processes: deaths, hangs, signals at each phase, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from launching import Launched, launched, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Stream(threading.Thread):
    """A streamed completion in the background: its events, and the exception that ended it."""

    def __init__(self, url: str, *, tokens: int = 300) -> None:
        super().__init__(daemon=True)
        self.url, self.tokens = url, tokens
        self.events: list[dict[str, Any]] = []
        self.done = False
        self.start()

    def run(self) -> None:
        body = {"model": "tiny", "prompt": "x", "max_tokens": self.tokens, "stream": True}
        with httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=30) as response:
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line.startswith("data: "):
                    self.events.append(json.loads(line[6:]))

    def until_first(self) -> None:
        wait_for(lambda: len(self.events) > 2, "the first tokens")

    def ended(self) -> dict[str, Any]:
        self.join(20)
        assert not self.is_alive()
        return self.events[-1]


def test_serves_drains_on_sigterm_and_leaves_nothing(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary) as server:
        url = server.url
        assert server.health()[0] == 200
        assert set(server.children()) == {"worker", "scheduler", "sh"}
        stream = Stream(url, tokens=40)
        stream.until_first()
        server.signal(signal.SIGTERM)
        server.until("finishing 1 request")
        assert httpx.get(f"{url}/health", timeout=5).status_code == 200
        assert httpx.get(f"{url}/readiness", timeout=5).json()["status"] == "draining"
        assert httpx.get(f"{url}/readiness", timeout=5).status_code == 503
        refused = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"}, timeout=5)
        assert refused.status_code == 503
        assert refused.json()["error"]["message"] == "The server is shutting down."
        assert stream.ended()["choices"][0]["finish_reason"] == "length"
        assert stream.done
        assert server.end() == 0
        server.nothing_is_left()
    assert "Traceback" not in server.text


@pytest.mark.parametrize("options", [["--drain-timeout", "0.5"], []], ids=["timeout", "second signal"])
def test_the_drain_ends_early(tiny_checkpoint: Path, temporary: Path, options: list[str]) -> None:
    with launched(tiny_checkpoint, temporary, *options) as server:
        stream = Stream(server.url)
        stream.until_first()
        server.signal(signal.SIGINT)
        server.until("finishing 1 request")
        began = time.monotonic()
        server.signal(signal.SIGINT)  # at once: the same Ctrl-C, delivered twice
        if not options:
            time.sleep(0.5)
            assert server.process.poll() is None
            server.signal(signal.SIGINT)
        assert "stopped before this answer was complete" in stream.ended()["error"]["message"]
        assert server.end() == 0
        assert time.monotonic() - began < 5
        assert "1 unfinished" in server.text
        server.nothing_is_left()


def test_a_process_that_dies_during_the_drain_is_not_replaced(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary, "--log-level", "debug") as server:
        stream = Stream(server.url)
        stream.until_first()
        server.signal(signal.SIGTERM)
        server.until("finishing 1 request")
        os.kill(server.children()["worker"], signal.SIGKILL)
        assert "worker 0 was killed by SIGKILL" in stream.ended()["error"]["message"]
        assert server.end() == 0
        assert server.text.count("this is the fake worker\n") == 2  # as it was said, and in the report of its death
        server.nothing_is_left()


@pytest.mark.parametrize("who", ["worker", "worker 1", "scheduler"])
def test_a_killed_process_fails_its_requests_and_the_engine_serves_again(
    tiny_checkpoint: Path, temporary: Path, who: str
) -> None:
    with launched(tiny_checkpoint, temporary, *(["--tp", "2"] if who == "worker 1" else [])) as server:
        url = server.url
        stream = Stream(url)
        stream.until_first()
        before = server.children()
        os.kill(before[who], signal.SIGKILL)
        title = {"worker": "worker 0", "scheduler": "the scheduler"}.get(who, who)
        message = stream.ended()["error"]["message"]
        assert f"{title} was killed by SIGKILL" in message
        server.until("serves again")
        wait_for(lambda: server.health()[0] == 200, "health after the restart")
        assert server.health()[1]["generation"] == 2
        after = server.children()
        assert set(after) == set(before)
        assert not {before[name] for name in before if name != "sh"} & set(after.values())
        again = Stream(url, tokens=3)
        assert again.ended()["choices"][0]["finish_reason"] == "length"
        server.signal(signal.SIGTERM)
        assert server.end() == 0
        server.nothing_is_left()


def test_health_says_why_while_it_restarts(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary, FAKE_WORKER="stuck@1") as server:
        url = server.url
        os.kill(server.children()["worker"], signal.SIGSEGV)
        wait_for(lambda: server.health()[0] == 503, "unhealthy")
        wait_for(lambda: "is starting: worker 0: loading weights 50%" in server.health()[1]["reason"], "the phase")
        assert "worker 0 was killed by SIGSEGV" in server.health()[1]["reason"]
        body = {"model": "tiny", "prompt": "x"}
        refused = httpx.post(f"{url}/v1/completions", json=body, timeout=5)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        server.signal(signal.SIGTERM)
        assert server.end() == 0
        server.nothing_is_left()


def test_gives_up_after_the_fourth_death(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary) as server:
        assert server.url
        for generation in range(1, 5):
            wait_for(lambda: server.health()[1].get("generation") == generation, "the next generation")  # noqa: B023
            os.kill(server.children()["worker"], signal.SIGKILL)
        assert server.end() == 1
        assert "went down 4 times within 10 minutes, at last because worker 0 was killed by SIGKILL" in server.lines[-1]
        server.nothing_is_left()


def test_a_mute_worker_counts_as_dead(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary, "--hang-timeout", "1.5", FAKE_WORKER="mute@0") as server:
        stream = Stream(server.url)
        assert "worker 0 gave no sign of life for 1.5 s" in stream.ended()["error"]["message"]
        server.until("serves again")


def test_a_stopped_launcher_does_not_blame_its_children(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary, "--hang-timeout", "1.5") as server:
        assert server.url
        server.signal(signal.SIGSTOP)
        time.sleep(6)
        server.signal(signal.SIGCONT)
        time.sleep(1.5)
        assert server.health()[1]["generation"] == 1


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"FAKE_SCHEDULER": "exit"}, "the scheduler ended with exit code 3"),
        ({"FAKE_WORKER": "fail"}, "exit code 1: the fake cannot load its weights"),
    ],
)
def test_a_failed_start_says_why_and_shows_the_last_lines(
    tiny_checkpoint: Path, temporary: Path, environment: dict[str, str], words: str
) -> None:
    with launched(tiny_checkpoint, temporary, **environment) as server:
        assert server.end() == 1
        assert server.lines[-1].startswith("ts-entry: the engine did not start")
        assert words in server.lines[-1]
        assert "this is the fake worker" in server.text
        assert "Traceback" not in server.text
        server.nothing_is_left()


@pytest.mark.parametrize(
    ("phase", "signum", "code"), [("TokenSpeed", signal.SIGINT, 130), ("loading weights", signal.SIGTERM, 143)]
)
def test_a_signal_before_ready(tiny_checkpoint: Path, temporary: Path, phase: str, signum: int, code: int) -> None:
    with launched(tiny_checkpoint, temporary, FAKE_WORKER="stuck") as server:
        server.until(phase)
        server.signal(signum)
        assert server.end() == code
        assert server.lines[-1] == "ts-entry: stopped\n"
        assert "Traceback" not in server.text
        server.nothing_is_left()


def test_a_signal_while_the_hub_is_asked(tmp_path: Path, temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}"
        environment = {"HOME": str(tmp_path), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": ""}
        with launched(Path("kimi-k2.5"), temporary, "--no-miniature", **environment) as server:
            mute.settimeout(10)
            connection, _ = mute.accept()
            with connection:
                server.signal(signal.SIGTERM)
                assert server.end() == 143
            server.nothing_is_left()


def test_health_answers_while_loading(tiny_checkpoint: Path, temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with launched(tiny_checkpoint, temporary, "--port", str(port), FAKE_WORKER="stuck") as server:
        server.until("loading weights")
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: "50%" in httpx.get(f"{url}/health", timeout=5).json()["reason"], "the phase in /health")
        assert httpx.get(f"{url}/health", timeout=5).status_code == 503
        models = httpx.get(f"{url}/v1/models", timeout=5)
        assert models.status_code == 503
        assert "loading weights" in models.json()["error"]["message"]


def test_children_that_are_deaf_to_sigterm_are_killed(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary, FAKE_WORKER="stubborn", FAKE_SCHEDULER="stubborn") as server:
        assert server.url
        server.signal(signal.SIGTERM)
        assert server.end() == 0
        server.nothing_is_left()


@pytest.mark.parametrize("mode", ["stuck", "stubborn"])
def test_a_killed_launcher_leaves_nothing(tiny_checkpoint: Path, temporary: Path, mode: str) -> None:
    with launched(tiny_checkpoint, temporary, FAKE_WORKER=mode) as server:
        server.until("loading weights" if mode == "stuck" else "ready ")
        server.signal(signal.SIGKILL)
        assert server.end() == -signal.SIGKILL
        server.nothing_is_left()


def test_the_next_launch_sweeps_what_a_killed_guard_left(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary) as server:
        assert server.url
        os.kill(server.children()["sh"], signal.SIGKILL)
        server.signal(signal.SIGKILL)
        server.end()
    assert list((temporary).iterdir())
    with launched(tiny_checkpoint, temporary) as server:
        assert server.url
        assert len(list((temporary).iterdir())) == 1
        server.signal(signal.SIGTERM)
        server.end()
        server.nothing_is_left()


def test_a_taken_port_is_one_sentence_before_anything_starts(tiny_checkpoint: Path, temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with launched(tiny_checkpoint, temporary, "--port", str(port)) as server:
            assert server.end() == 1
    assert server.lines == [
        f"ts-entry: port {port} on 127.0.0.1 is taken by another process; stop it or choose another with --port\n"
    ]
    server.nothing_is_left()


def test_an_api_key_guards_v1_and_stays_off_the_banner(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary, TS_API_KEY="s3cret") as server:
        url = server.url
        assert httpx.get(f"{url}/v1/models", timeout=5).status_code == 401
        headers = {"Authorization": "Bearer s3cret"}
        assert httpx.get(f"{url}/v1/models", headers=headers, timeout=5).json()["data"][0]["id"] == "tiny"
        assert httpx.get(f"{url}/health", timeout=5).status_code == 200
        assert "s3cret" not in server.text
        assert "Authorization: Bearer" in server.text


def test_the_network_line_warns_without_a_key(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary, "--host", "0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert "can be reached from other machines, without a key" in server.text


def test_debug_shows_what_children_print(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary, "--log-level", "debug") as server:
        assert server.url
        server.until("[worker 0] this is the fake worker")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ts_entry.cli", ["numpy", "zmq", "ts_protocol", "asyncio", "torch"]),
        (
            "ts_entry.launcher",
            ["torch", "uvicorn", "starlette", "huggingface_hub", "tiktoken", "httpx", "transformers"],
        ),
        ("ts_entry.server", ["torch", "huggingface_hub", "transformers"]),
    ],
)
def test_imports_are_light(module: str, heavy: list[str]) -> None:
    code = f"import sys, {module}; print(sorted({set(heavy)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_sockets_are_private(tiny_checkpoint: Path, temporary: Path) -> None:
    with launched(tiny_checkpoint, temporary) as server:
        assert server.url
        (folder,) = (temporary).iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert isinstance(server, Launched)
