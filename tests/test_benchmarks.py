"""The benchmarks name functions of the product, count what fails, and simulate its rules."""

import pkgutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import abuse, crowd, hot_counters, load, vendor, waiting
from benchmarks.abuse import Record
from benchmarks.crowd import Size
from benchmarks.parts import OURS
from tests.stub_vendor import DONE, FINISH, StubVendor, chunk

KEY = "benchmark-key"
TWO_TOKENS = [chunk("token 0 "), chunk("token 1 ") + FINISH + DONE]


@pytest.mark.parametrize("seam", OURS)
def test_a_seam_is_a_function_of_the_product(seam: str) -> None:
    module, _, path = seam.partition(":")
    owner, _, name = path.rpartition(".")
    assert callable(getattr(pkgutil.resolve_name(f"{module}:{owner}"), name))


def test_a_crowd_of_streams_leaves_ok_records(tmp_path: Path) -> None:
    kind = waiting.Kind(
        "streams", vendor.Pace(tokens=3, gap=0.01), crowds=(Size(5, 0.1),), tokens=3
    )
    with vendor.running(kind.pace) as upstream:
        [measured] = waiting.ask(waiting.ours(tmp_path, {}), upstream.url, kind, kind.crowds)
    assert (len(measured.crowd.whole), measured.records) == (5, 5)
    assert [len(reply.tokens) for reply in measured.crowd.replies] == [3] * 5
    assert measured.usage.cpu > 0
    assert measured.usage.peak_mb > 0


def test_a_crowd_counts_failures() -> None:
    with StubVendor() as stub:
        stub.reply({}, status=503)
        stub.reset()
        stub.stream(TWO_TOKENS[:1])  # ends in time, a token too early
        stub.stream(TWO_TOKENS[:1], cut=True)
        stub.stream([TWO_TOKENS[0], TWO_TOKENS[1][:3]], gap=[0.0, 60.0])
        target = load.completions(stub.url, key=KEY, stream=True)
        found = [crowd.ask(target, Size(1), tokens=2, limit=1.0) for _ in range(5)]
    assert [dict(each.failures) for each in found] == [
        {"503": 1},
        {"no answer": 1},
        {"cut": 1},
        {"cut": 1},
        {"cut": 1},
    ]
    assert found[-1].replies[0].seconds > 0


def test_a_token_that_arrives_in_two_pieces_is_one_token() -> None:
    with StubVendor() as stub:
        stub.reply("token token ", body_pace=(5, 0.05))
        target = load.completions(stub.url, key=KEY, stream=True)
        [reply] = crowd.ask(target, Size(1), tokens=2, limit=5.0).whole
    assert len(reply.tokens) == 2


def test_a_missing_or_second_record_fails_the_abuse_run() -> None:
    record = Record("id", "ok", datetime(2026, 1, 1, tzinfo=UTC))
    records = {1: [record], 2: [record, record], 3: []}
    assert abuse.exactly_one("answered", [1], records).held
    assert not abuse.exactly_one("answered", [1, 2], records).held
    assert not abuse.exactly_one("answered", [1, 3], records).held
    assert not abuse.exactly_one("answered", [1], records, {"error"}).held


def test_settlements_without_conflict_take_one_try() -> None:
    simulation = hot_counters.Simulation(0.010, 2)
    hot_counters.settle_all(simulation, [0.0, 1.0, 2.0])
    assert (simulation.tries, simulation.failures) == (3, 0)
    assert simulation.waits == pytest.approx([0.010] * 3)


def test_conflicting_settlements_are_retried_on_another_shard() -> None:
    simulation = hot_counters.Simulation(0.010, 2)
    hot_counters.settle_all(simulation, [0.0, 0.0])
    assert simulation.failures == 0
    assert simulation.tries >= 3
    assert min(simulation.waits) == pytest.approx(0.010)


def test_claims_of_a_budget_wait_only_for_the_units_of_its_item() -> None:
    simulation = hot_counters.Simulation(0.0, 2)
    hot_counters.claim_all(simulation, [0.0] * 500)
    assert max(simulation.waits) == pytest.approx(0.015)
    simulation = hot_counters.Simulation(0.0, 2)
    hot_counters.claim_all(simulation, [0.0] * 1000)
    assert simulation.failures == 0
    assert max(simulation.waits) > 0.5


def test_an_item_serves_a_thousand_units_a_second() -> None:
    item = hot_counters.Item()
    assert [item.take(4, 0.0) for _ in range(251)] == [True] * 250 + [False]
    assert item.take(4, 0.004)
