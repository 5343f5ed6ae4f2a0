"""The simulator: its arithmetic by hand, its users' prompts, and what must hold whatever the policy is."""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ts_scheduler.simulate import PRESETS, WORKLOADS, Device, Fleet, Options, Replica, command, simulate
from ts_scheduler.simulate.workload import Spread, User, Workload, system_prompts

PACKAGE = Path(__file__).parents[2]
DOCS = PACKAGE.parents[1] / "docs"

DEVICE = Device(
    name="toy",
    gpus=2,
    kv_tokens=64_000,
    fixed_s=1.0,
    experts_s=10.0,
    expert_share=0.5,
    token_s=0.1,
    kv_token_s=0.01,
    pair_s=0.001,
)
SMALL = Workload(
    name="small",
    system=256,
    systems=2,
    first=Spread(median=500, sigma=0.5, most=2000),
    added=Spread(median=60, sigma=0.5, most=200),
    answer=Spread(median=20, sigma=0.5, most=80),
    turns=(3, 6),
    tool_wait=Spread(median=0.2),
    person_wait=Spread(median=2.0),
    person_share=0.2,
    longest=4000,
)
FAST = replace(DEVICE, fixed_s=2e-3, experts_s=1e-3, token_s=1e-6, kv_token_s=1e-8, pair_s=0.0)
OPTIONS = Options(users=6, seconds=40.0, warmup_s=5.0, page_size=16, chunk_tokens=512, max_num_seqs=8)


def rows(*parts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    starts, counts = np.array(parts, dtype=np.int32).T
    return starts, counts


def test_a_step_costs_what_the_arithmetic_says() -> None:
    one_decode = DEVICE.step_seconds(*rows((99, 1)))
    assert one_decode == pytest.approx(1.0 + 10 * 0.5 + 0.1 + 0.01 * 100)
    chunk = DEVICE.step_seconds(*rows((10, 4)))
    assert chunk == pytest.approx(1.0 + 10 * (1 - 0.5**4) + 0.4 + 0.001 * (4 * 10 + 8))
    both = DEVICE.step_seconds(*rows((99, 1), (10, 4)))
    assert both == pytest.approx(1.0 + 10 * (1 - 0.5**5) + 0.5 + 1.0 + 0.048)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_hold_a_few_long_contexts_and_state_their_sources(name: str) -> None:
    device = PRESETS[name]
    assert 8 * 50_000 < device.kv_tokens < 10_000_000
    assert 0.002 < device.step_seconds(*rows((50_000, 1))) < 0.02
    assert len(device.source) >= 3


def test_a_users_prompts_grow_by_answer_and_tool_result() -> None:
    systems = system_prompts(SMALL, seed=1)
    user = User(SMALL, systems, seed=1, user=3)
    turns = []
    for _ in range(40):
        turn = user.next()
        turns.append(turn)
        assert len(turn.prompt) + turn.answer_tokens <= SMALL.longest
        user.hear(np.full(turn.answer_tokens, 7, np.int32))
    for before, after in pairwise(turns):
        if after.session != before.session:
            assert (after.prompt[: SMALL.system] == systems[after.session % SMALL.systems]).all()
            continue
        heard = len(before.prompt) + before.answer_tokens
        assert (after.prompt[: len(before.prompt)] == before.prompt).all()
        assert (after.prompt[len(before.prompt) : heard] == 7).all()
        assert heard < len(after.prompt) <= heard + SMALL.added.most
    assert len({turn.session for turn in turns}) >= 40 // SMALL.turns[1]


def test_users_are_met_at_any_turn_of_their_sessions() -> None:
    systems = system_prompts(SMALL, seed=1)
    firsts = [len(User(SMALL, systems, seed=1, user=number).next().prompt) for number in range(200)]
    fresh = []
    for number in range(200):
        user = User(SMALL, systems, seed=1, user=number)
        session = user.next().session
        while (turn := user.next()).session == session:
            pass
        fresh.append(len(turn.prompt))
    each = SMALL.added.median + SMALL.answer.median
    assert np.mean(firsts) - np.mean(fresh) == pytest.approx(2.0 * each, rel=0.5), "half of a session of 3 to 6 turns"


def test_a_replica_is_deterministic_and_reuses_prefixes() -> None:
    outcome = Replica(FAST, SMALL, OPTIONS).run()
    assert outcome == Replica(FAST, SMALL, OPTIONS).run()
    assert outcome != Replica(FAST, SMALL, replace(OPTIONS, seed=1)).run()
    assert outcome.seconds >= OPTIONS.seconds - OPTIONS.warmup_s
    assert outcome.step_seconds <= outcome.seconds + 1.0
    assert outcome.cached_tokens / outcome.prompt_tokens > 0.7, "later turns hit the earlier ones"
    assert all(0 <= queue <= first for queue, first in zip(outcome.queue_s, outcome.first_token_s, strict=True))


def test_nobody_decodes_faster_than_the_device() -> None:
    alone = Replica(FAST, SMALL, replace(OPTIONS, users=1)).run()
    fastest = 1.0 / FAST.step_seconds(*rows((0, 1)))
    assert 0.5 * fastest < max(alone.user_tps) <= fastest
    assert alone.slow_seconds == 0.0
    slow = Replica(replace(FAST, fixed_s=0.1), SMALL, replace(OPTIONS, users=1)).run()
    assert slow.slow_seconds == pytest.approx(slow.decode_seconds), "each gap is longer than 1/70 s"


def test_a_cache_too_small_for_all_costs_hits() -> None:
    many = replace(OPTIONS, users=20)
    roomy = Replica(FAST, SMALL, many).run()
    tight = Replica(replace(FAST, kv_tokens=8_000), SMALL, many).run()
    assert tight.cached_tokens / tight.prompt_tokens < roomy.cached_tokens / roomy.prompt_tokens - 0.1


def test_a_fleet_is_its_replicas() -> None:
    fleet = Fleet(device=FAST, workload=SMALL, options=replace(OPTIONS, users=5, seconds=15.0), replicas=2)
    parts = fleet.parts()
    assert [(options.users, first) for options, first in parts] == [(3, 0), (2, 3)]
    apart = [Replica(FAST, SMALL, options, first_user=first).run() for options, first in parts]
    total = simulate(fleet)
    assert total.output_tokens == sum(part.output_tokens for part in apart)
    assert total.gpus == 2 * FAST.gpus
    assert total == simulate(fleet, processes=2)


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    command = [sys.executable, "-m", "ts_scheduler.cli", "simulate", "--users", "16", "--replicas", "1,2"]
    command += ["--min-tps", "0,70"]
    done = subprocess.run(
        [*command, "--seconds", "90", "--processes", "1", "--json", str(target)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "tps/user p50" in done.stdout
    record = json.loads(target.read_text())
    one, floor_one, two, floor_two = record["figures"]
    assert (one["replicas"], two["replicas"]) == (1, 2)
    assert [row["min tps"] for row in record["figures"]] == [0, 70, 0, 70]
    assert floor_one["user-seconds below the floor"] < one["user-seconds below the floor"]
    assert floor_two["users a replica"] == two["users a replica"]
    assert one["users a replica"] == 2 * two["users a replica"]
    assert one["tpm/GPU"] > two["tpm/GPU"] > 0
    for options, named in ((["--seconds", "10"], "--warmup"), (["--min-tps", "70,-1"], "--min-tps")):
        wrong = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert wrong.returncode == 2
        assert named in wrong.stderr


def test_the_command_compares_chunks(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    command = [sys.executable, "-m", "ts_scheduler.cli", "simulate", "--users", "4", "--replicas", "1"]
    command += ["--chunk-tokens", "256,8192", "--seconds", "40", "--warmup", "0", "--processes", "1"]
    subprocess.run([*command, "--json", str(target)], capture_output=True, text=True, check=True)
    small, large = json.loads(target.read_text())["figures"]
    assert (small["chunk tokens"], large["chunk tokens"]) == (256, 8192)
    assert small["first token p99 s"] > large["first token p99 s"], "a first prompt takes many small steps"


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_workloads_fit_the_presets(name: str) -> None:
    longest = WORKLOADS[name].longest
    assert all(device.kv_tokens > 2 * longest for device in PRESETS.values())


def test_the_page_of_the_fleet_shows_its_run() -> None:
    record = json.loads((DOCS / "benchmarks" / "fleet.json").read_text())
    page = (DOCS / "benchmarks" / "fleet.md").read_text()
    assert record["options"]["users"] == 10_000
    assert tuple(record["device"]["source"]) == PRESETS["kimi-k2.5-8xh200"].source
    for row in record["figures"]:
        rates = f"{row['tps/user p50']:.1f}, {row['tps/user p10']:.1f} | {row['tpm/GPU']:,.0f}"
        slow = f"{100 * row['user-seconds below the floor']:.1f} %"
        waits = " | ".join(
            f"{row[f'{what} p50 s']:.2f}, {row[f'{what} p99 s']:.1f}" for what in ("queue", "first token")
        )
        who = f"{row['replicas']} | {row['users a replica']:.3g} | {row['min tps']:.0f}"
        assert f"| {who} | {rates} | {slow} | {waits} | {row['hit rate']:.3f} |" in page
    for row in json.loads((DOCS / "benchmarks" / "fleet_chunks.json").read_text())["figures"]:
        who = f"{row['users a replica']:.3g} | {row['chunk tokens']} | {row['min tps']:.0f}"
        rates = f"{row['tps/user p50']:.1f}, {row['tps/user p10']:.1f} | {row['tpm/GPU']:,.0f}"
        slow = f"{100 * row['user-seconds below the floor']:.1f} %"
        first = f"{row['first token p50 s']:.2f}, {row['first token p99 s']:.1f}"
        assert f"| {who} | {rates} | {slow} | {first} |" in page
    for source in (*record["device"]["source"], record["workload"]["source"]):
        assert source in " ".join(page.split())


@pytest.mark.parametrize("page", [PACKAGE / "README.md", DOCS / "scheduler.md", DOCS / "benchmarks" / "fleet.md"])
def test_the_commands_on_the_pages_exist(page: Path) -> None:
    commands = re.findall(r"ts-scheduler simulate((?:\s+-[^`]*)?)[`\n]", page.read_text())
    assert commands
    for options in commands:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        parser.parse_args(options.replace("\\\n", " ").split())
