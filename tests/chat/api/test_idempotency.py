"""Idempotency-Key: the model is called once for repeated requests."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from chat import service
from chat.callers import Caller
from chat.conversation import ChatRequest
from chat.models import Interaction
from providers.deadline import Deadline
from tests.server_process import Server
from tests.stub_vendor import StubVendor

BODY = {"userId": "user123", "prompt": "Olá!"}


def ask(client, key="key-1", **fields):
    return client.post(
        "/v1/chat",
        {**BODY, **fields},
        content_type="application/json",
        headers={} if key is None else {"Idempotency-Key": key},
    )


@pytest.mark.django_db(transaction=True)
class TestOneProcess:
    def test_the_second_request_gets_the_first_answer(self, client):
        first, second = ask(client), ask(client)
        assert (first.status_code, second.status_code) == (200, 200)
        assert second.json() == first.json()
        assert "Idempotency-Replayed" not in first.headers
        assert second.headers["Idempotency-Replayed"] == "true"
        assert Interaction.objects.count() == 1

    @pytest.mark.usefixtures("frozen_rate_limit_clock")
    def test_a_replay_is_counted(self, client):
        remaining = [int(ask(client).headers["X-RateLimit-Remaining"]) for _ in range(2)]
        assert remaining[1] == remaining[0] - 1

    def test_requests_without_a_key_are_independent(self, client):
        assert ask(client, key=None).json() != ask(client, key=None).json()
        assert Interaction.objects.count() == 2

    @pytest.mark.parametrize(
        "other",
        [{"prompt": "Olá"}, {"userId": "user124"}, {"temperature": 0.5}, {"metadata": {"a": "b"}}],
    )
    def test_another_body_is_refused(self, client, other):
        ask(client)
        response = ask(client, **other)
        assert (response.status_code, response.json()["code"]) == (422, "idempotency_mismatch")
        assert Interaction.objects.count() == 1

    def test_unknown_fields_and_explicit_nulls_are_the_same_body(self, client):
        first = ask(client)
        assert ask(client, foo=1, temperature=None).json() == first.json()

    def test_owners_do_not_share_keys(self):
        question = ChatRequest(user_id="user123", prompt="Olá!")
        ids = {
            service.chat(
                caller=Caller(owner=owner, key_id="k"),
                request=question,
                deadline=Deadline(5),
                idempotency_key="key-1",
            ).record.interaction_id
            for owner in ("one", "two")
        }
        assert len(ids) == 2

    @pytest.mark.parametrize("key", ["", "é", "a" * 256, "tab\there"])
    def test_a_key_is_short_printable_ascii(self, client, key):
        response = ask(client, key=key)
        assert response.status_code == 400
        assert response.json()["errors"][0]["field"] == "Idempotency-Key"
        assert Interaction.objects.count() == 0

    def test_a_running_request_is_a_409(self, client):
        ask(client)
        Interaction.objects.update(status="pending", deadline_at=datetime.now(UTC))
        response = ask(client)
        assert (response.status_code, response.json()["code"]) == (409, "idempotency_in_flight")
        assert int(response.headers["Retry-After"]) >= 1

    def test_a_failed_request_may_be_tried_again(self, client):
        assert ask(client, prompt="mock:fail=401").status_code == 502
        assert Interaction.objects.get().status == "error"
        assert ask(client, prompt="mock:fail=401").status_code == 502
        assert Interaction.objects.get().status == "error"

    def test_an_aborted_request_may_be_tried_again(self, client):
        first = ask(client).json()
        long_ago = datetime.now(UTC) - timedelta(seconds=6)
        Interaction.objects.update(status="pending", response=None, deadline_at=long_ago)
        again = ask(client)
        assert again.status_code == 200
        assert "Idempotency-Replayed" not in again.headers
        assert again.json()["interaction_id"] == first["interaction_id"]
        assert Interaction.objects.get().status == "ok"


def test_50_concurrent_requests_on_several_processes_call_the_vendor_once(tmp_path):
    with (
        StubVendor(delay=0.3) as vendor,
        Server(
            tmp_path,
            OPENAI_BASE_URL=vendor.url,
            WEB_CONCURRENCY="3",
            RATE_LIMIT_PER_MINUTE="0",
        ) as server,
        ThreadPoolExecutor(50) as pool,
    ):
        key = {"Idempotency-Key": "one"}
        responses = list(pool.map(lambda _: server.chat(headers=key), range(50)))
        replay = server.chat(headers=key)

        assert len(vendor.requests) == 1
        answers = [response.json() for response in responses if response.status_code == 200]
        refused = [response.json()["code"] for response in responses if response.status_code != 200]
        assert len(answers) >= 1
        assert all(answer == replay.json() for answer in answers)
        assert set(refused) <= {"idempotency_in_flight"}
        record = server.client.get(f"/v1/interactions/{replay.json()['interaction_id']}").json()
        assert record["status"] == "ok"


def test_after_a_kill_one_retry_takes_over(tmp_path):
    key = {"Idempotency-Key": "one"}
    with StubVendor(delay=30) as vendor:
        variables = {"OPENAI_BASE_URL": vendor.url, "RATE_LIMIT_PER_MINUTE": "0"}
        # Long enough to call the vendor and kill the server, on a busy machine too.
        short = {**variables, "REQUEST_TIMEOUT_SECONDS": "4"}
        with Server(tmp_path, **short) as server, ThreadPoolExecutor(1) as pool:
            running = pool.submit(server.chat, headers=key)
            while not vendor.requests:
                assert not running.done()
                time.sleep(0.01)
            server.signal(signal.SIGKILL, group=True)
            assert running.exception() is not None
        vendor.delay = 0.0
        with Server(tmp_path, **variables) as server, ThreadPoolExecutor(20) as pool:
            while server.chat(headers=key).status_code == 409:  # until its deadline has passed
                time.sleep(0.2)
            responses = list(pool.map(lambda _: server.chat(headers=key), range(20)))
            assert {response.status_code for response in responses} == {200}
            assert len(vendor.requests) == 2
