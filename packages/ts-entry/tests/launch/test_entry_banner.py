"""Banner, timeline, machine and environment: the small parts of the launcher."""

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from ts_entry import machine
from ts_entry.banner import Banner, bar, try_it
from ts_entry.errors import AddressError, UsageError
from ts_entry.launcher import child_environment, is_loopback, listen, url_of
from ts_entry.machine import choose_machine, free_disk, free_host_memory, size_text
from ts_entry.settings import read_settings
from ts_entry.timeline import Timeline


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_elsewhere_a_phase_is_one_plain_line() -> None:
    stream = io.StringIO()
    banner = Banner(stream)
    for done in (0, 50, 100):
        banner.progress("engine", "loading weights", done, 100)
    banner.line("ready", "now")
    assert stream.getvalue().splitlines() == ["  engine     loading weights 100 bytes", "  ready      now"]


def test_on_a_terminal_progress_is_redrawn_in_place() -> None:
    stream, now = Terminal(), [0.0]
    banner = Banner(stream, clock=lambda: now[0])
    for done in range(0, 101, 10):
        now[0] += 0.05
        banner.progress("engine", "loading weights", done, 100)
    banner.line("ready", "now")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert 3 <= text.count("loading weights") <= 7, "not at every call"
    assert "100%" in text, "the end is drawn"
    assert text.endswith("\r\x1b[2K  ready      now\n")


def test_a_terminal_that_has_gone_does_not_stop_the_server() -> None:
    tried = []

    class Gone(Terminal):
        def write(self, text: str) -> int:
            tried.append(text)
            raise BrokenPipeError

    Banner(Gone()).progress("engine", "loading")
    assert "loading" in tried[0]


@pytest.mark.parametrize(("done", "total", "start"), [(0, 0, "[...."), (5, 10, "[############...."), (12, 10, "[####")])
def test_bar(done: int, total: int, start: str) -> None:
    assert bar(done, total).startswith(start)
    assert len(bar(done, total)) == 31


def test_the_command_to_try_never_holds_the_key() -> None:
    assert "Authorization" not in try_it("http://x", "m", needs_key=False)
    assert "YOUR_KEY" in try_it("http://x", "m", needs_key=True)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (14_825_464, "14.8 MB"), (594 * 10**9, "594.0 GB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_the_timeline_counts_from_the_start_of_the_process() -> None:
    timeline = Timeline()
    first = timeline.total()
    time.sleep(0.02)
    timeline.mark("a")
    timeline.mark("a")
    assert timeline.marks["a"] - first >= 0.02
    assert timeline.text().endswith(" a")
    assert 0 < first < time.monotonic()


def test_memory_is_bounded_by_the_control_group(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:     80 kB\n")
    assert free_host_memory(meminfo, tmp_path) == 80 * 1024
    (tmp_path / "memory.max").write_text("50000\n")
    (tmp_path / "memory.current").write_text("20000\n")
    assert free_host_memory(meminfo, tmp_path) == 30000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_host_memory(meminfo, tmp_path) == 80 * 1024


def test_free_disk_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") > 0


def test_auto_is_the_cpu_and_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_gpus", lambda: [machine.Gpu("H200", 10**9)])
    assert (choose_machine("auto").worker_device(1), choose_machine("auto").idle_gpu) == ("cpu", "H200")
    assert choose_machine("cpu").idle_gpu is None
    assert choose_machine("cuda").worker_device(0) == "cuda:0"
    monkeypatch.setattr(machine, "find_gpus", list)
    with pytest.raises(UsageError, match="no NVIDIA GPU"):
        choose_machine("cuda")


def test_several_gpus_have_what_the_fullest_leaves_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_gpus", lambda: [machine.Gpu("H200", free) for free in (9, 5, 1)])
    two = choose_machine("cuda", 2)
    assert (two.title, two.free_memory, two.worker_device(1)) == ("2 x H200", 10, "cuda:1")
    with pytest.raises(UsageError, match="--tensor-parallel-size 4: this machine has 3 GPUs"):
        choose_machine("cuda", 4)


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("h", False)]
)
def test_loopback(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


def test_urls_are_ones_that_a_client_can_use() -> None:
    for host, start in (("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:")):
        (listening,) = listen(host, 0)
        with listening:
            assert url_of(listening).startswith(start)


def test_an_ipv6_url_has_brackets(both_loopbacks: None) -> None:
    (listening,) = listen("::1", 0)
    with listening:
        assert url_of(listening).startswith("http://[::1]:")


@pytest.fixture
def both_loopbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """``localhost`` is 127.0.0.1 and ::1, in this order, whatever this machine's files say."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    name_localhost(monkeypatch, "127.0.0.1", "::1")


def name_localhost(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    real = socket.getaddrinfo

    def found(host: str, *rest: Any, **more: Any) -> list[Any]:
        hosts = addresses if host == "localhost" else (host,)
        return [entry for each in hosts for entry in real(each, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_every_address_of_a_name_is_listened_on_at_one_port(both_loopbacks: None) -> None:
    listening = listen("localhost", 0)
    try:
        (port,) = {each.getsockname()[1] for each in listening}
        assert {each.getsockname()[0] for each in listening} == {"127.0.0.1", "::1"}
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=5).close()
    finally:
        for each in listening:
            each.close()


@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_on_one_address_is_refused(both_loopbacks: None, taken: str) -> None:
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, 0), family=family) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port} on {taken} is taken"):
            listen("localhost", port)
    for each in listen("localhost", port):  # nothing was left open
        each.close()


def test_an_address_that_the_machine_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    name_localhost(monkeypatch, "203.0.113.1", "127.0.0.1")
    (listening,) = listen("localhost", 0)
    with listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_addresses_that_cannot_be_used() -> None:
    with pytest.raises(AddressError, match="--host"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(AddressError, match=r"cannot listen on 203\.0\.113\.1"):
        listen("203.0.113.1", 0)


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    settings = read_settings({"HOME": str(tmp_path), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "true"})
    assert settings.hub_cache == tmp_path / "hub"
    assert settings.hub_offline
    assert settings.hub_token == "t0ken"
    assert settings.models is None
    assert settings.api_key is None
    chosen = read_settings({"HOME": "/h", "TS_MODELS": "/m", "HF_HUB_CACHE": "/c", "TS_API_KEY": "k", "HF_TOKEN": "x"})
    assert (chosen.models, chosen.hub_cache) == (Path("/m"), Path("/c"))
    assert (chosen.api_key, chosen.hub_token) == ("k", "x")


def test_bytecode_of_a_bare_torch_goes_to_our_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = tmp_path / "site" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    env = {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    given = child_environment(read_settings(env))
    assert "PYTHONDONTWRITEBYTECODE" not in given
    assert given["PYTHONPYCACHEPREFIX"].startswith(str(tmp_path / ".cache"))
    (torch / "__pycache__").mkdir()
    assert child_environment(read_settings(env))["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "PYTHONPYCACHEPREFIX" not in child_environment(read_settings({"HOME": os.devnull}))


def test_threads_of_torch_do_not_poll_unless_the_user_says_so() -> None:
    assert child_environment(read_settings({"HOME": "/h"}))["OMP_WAIT_POLICY"] == "passive"
    given = child_environment(read_settings({"HOME": "/h", "OMP_WAIT_POLICY": "active"}))
    assert given["OMP_WAIT_POLICY"] == "active"
