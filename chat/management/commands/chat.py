"""Talk to a model in the terminal."""

import json
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from chat.api.authentication import Caller
from chat.api.serializers import AnswerSerializer, ChatSerializer
from chat.errors import Problem, log_and_convert
from chat.management import console
from chat.management.console import owner, printable, user
from chat.service import ChatRequest, ChatResult, stream
from providers.base import Deadline

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Command(console.ConsoleCommand):
    help = (
        "Talk to a model, through the same service as clients do: each question leaves a record, "
        "and the answer is written as it comes. On a terminal, Ctrl-C stops an answer, Ctrl-D or "
        "/quit ends, and the arrows bring earlier lines back. Elsewhere all of standard input is "
        "one question, the answer goes to standard output and the rest to standard error: echo Hi "
        "| manage.py chat. It then ends with 1 if there is no answer. Keys and rate limits are "
        "for clients and do not count here."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", type=user, default="console", help="whose records (console)")
        parser.add_argument("--owner", type=owner, default="default", help="for whom (default)")
        parser.add_argument("--model", help="an allowed model: its id, or provider:id")
        parser.add_argument("--system", help="instructions that stand above the conversation")
        parser.add_argument("--max-tokens", type=int, help="the longest answer")
        parser.add_argument(
            "--continue", dest="previous", metavar="ID", help="the interaction to go on from"
        )
        parser.add_argument(
            "--format",
            choices=["text", "json"],
            default="text",
            help="json: each answer as a line of JSON, when it is complete",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._caller = Caller(owner=options["owner"], key_id="console")
        self._asked: dict[str, Any] = {"userId": options["user"]}
        self._asked |= {name: options[name] for name in ("model", "system", "max_tokens")}
        self._json = options["format"] == "json"
        self._dim = self.stderr.isatty() and not options["no_color"]
        self._previous: str | None = options["previous"]
        if sys.stdin.isatty():
            self._talk()
            return
        try:
            answered = self._ask(sys.stdin.read().removesuffix("\n"))
        except Problem as exc:
            raise CommandError(_said(exc)) from exc
        if not answered:
            raise CommandError("Stopped.", returncode=130)

    def _talk(self) -> None:
        """Questions and answers until the end of the input."""
        import readline  # noqa: F401  (it gives input() a history)

        self._note("Ctrl-C stops an answer; Ctrl-D or /quit ends.")
        if not settings.STORE_CONTENT:
            self._note("STORE_CONTENT is false: each question stands for itself.")
        for prompt in _prompts():
            try:
                if not self._ask(prompt):
                    self._note("(stopped)")
            except Problem as exc:
                self.stderr.write(_said(exc))

    def _ask(self, prompt: str) -> bool:
        """Write the answer as it comes, and what it cost; False if it was stopped.

        Raises Problem.
        """
        deadline = Deadline(settings.REQUEST_TIMEOUT_SECONDS)
        try:
            with _stopped_by_interrupt(deadline):
                answer = self._streamed(self._question(prompt), deadline)
            self._told(answer)
        except BrokenPipeError:
            raise
        except Exception as exc:
            if not deadline.cancelled:
                raise log_and_convert(exc) from exc
        return not deadline.cancelled

    def _streamed(self, question: ChatRequest, deadline: Deadline) -> ChatResult:
        answer: ChatResult | None = None
        begun = False
        try:
            for event in stream(caller=self._caller, question=question, deadline=deadline):
                if isinstance(event, ChatResult):
                    answer = event
                    text = "" if begun else event.record.response or ""
                else:
                    text = event.text
                self._write(printable(text))
                begun = True
        finally:
            if begun:
                self._write("\n")
        if answer is None:
            raise AssertionError("a stream ends with its answer")
        return answer

    def _question(self, prompt: str) -> ChatRequest:
        given = {**self._asked, "prompt": prompt, "previous_interaction_id": self._previous}
        return ChatRequest(**ChatSerializer().run_validation(given))

    def _told(self, answer: ChatResult) -> None:
        record = answer.record
        if settings.STORE_CONTENT and answer.recorded:
            self._previous = record.interaction_id
        if self._json:
            whole = AnswerSerializer().to_representation(record)
            self.stdout.write(json.dumps({**whole, "recorded": answer.recorded}))
            return
        cost = record.usage.cost_usd
        parts = (
            printable(record.model),
            None if record.usage.total_tokens is None else f"{record.usage.total_tokens} tokens",
            None if cost is None else f"{cost.normalize():f} USD",
            f"{record.latency_ms} ms",
            None if record.finish_reason == "stop" else record.finish_reason,
            record.interaction_id if answer.recorded else "not recorded",
        )
        self._note(" · ".join(part for part in parts if part))

    def _write(self, text: str) -> None:
        if self._json:
            return
        self.stdout.write(text, ending="")
        self.stdout.flush()

    def _note(self, text: str) -> None:
        """A line beside the conversation, dim where that can be seen."""
        self.stderr.write(f"{DIM}{text}{PLAIN}" if self._dim else text, style_func=str)


def _prompts() -> Iterator[str]:
    """The lines that are typed, but for empty ones."""
    while True:
        try:
            line = input("> ")
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        except EOFError:
            sys.stdout.write("\n")
            return
        else:
            if line.strip() == "/quit":
                return
            if line.strip():
                yield line


@contextmanager
def _stopped_by_interrupt(deadline: Deadline) -> Iterator[None]:
    """Ctrl-C ends the call to the vendor, so that the record is settled, and not the process."""

    def stop(*_: Any) -> None:
        # In a thread, as this one may be holding the very lock that cancelling needs.
        threading.Thread(target=deadline.cancel).start()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _said(problem: Problem) -> str:
    """The failure in words, with the fields at fault."""
    faults = [f"{each['field']}: {each['detail']}" for each in problem.errors]
    return f"{problem.title}. {'; '.join(faults) or problem.detail}"
