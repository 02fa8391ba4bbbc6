"""Talk to a model in the terminal."""

import signal
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from chat.authentication import Caller
from chat.errors import Problem, report
from chat.management.console import owner, printable, user
from chat.serializers import ChatSerializer
from chat.service import Answer, Question, stream
from providers.base import Deadline

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Command(BaseCommand):
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

    def handle(self, *args: Any, **options: Any) -> None:
        self._caller = Caller(owner=options["owner"], key_id="console")
        self._asked: dict[str, Any] = {"userId": options["user"]}
        self._asked |= {name: options[name] for name in ("model", "system", "max_tokens")}
        self._dim = self.stderr.isatty() and not options["no_color"]
        self._previous: str | None = options["previous"]
        if sys.stdin.isatty():
            self._talk()
            return
        try:
            self._ask(sys.stdin.read().removesuffix("\n"))
        except Problem as exc:
            raise CommandError(_said(exc)) from exc

    def _talk(self) -> None:
        """Questions and answers until the end of the input."""
        import readline  # noqa: F401  (it gives input() a history)

        self._note("Ctrl-C stops an answer; Ctrl-D or /quit ends.")
        if not settings.STORE_CONTENT:
            self._note("STORE_CONTENT is false: each question stands for itself.")
        for prompt in _prompts():
            try:
                self._ask(prompt)
            except Problem as exc:
                self.stderr.write(_said(exc))

    def _ask(self, prompt: str) -> None:
        """Write the answer as it comes, and what it cost. Raises Problem."""
        deadline = Deadline(settings.REQUEST_TIMEOUT_SECONDS)
        try:
            with _stopped_by_interrupt(deadline):
                self._told(self._streamed(self._question(prompt), deadline))
        except Exception as exc:
            if not deadline.cancelled:
                raise report(exc) from exc
            self._note("(stopped)")

    def _streamed(self, question: Question, deadline: Deadline) -> Answer:
        written = False
        try:
            for event in stream(caller=self._caller, question=question, deadline=deadline):
                if isinstance(event, Answer):
                    if not written:
                        self._write(printable(event.record.response or ""))
                    written = True
                    return event
                self._write(printable(event.text))
                written = True
        finally:
            if written:
                self._write("\n")
        raise AssertionError("a stream ends with its answer")

    def _question(self, prompt: str) -> Question:
        given = {**self._asked, "prompt": prompt, "previous_interaction_id": self._previous}
        return Question(**ChatSerializer().run_validation(given))

    def _told(self, answer: Answer) -> None:
        record = answer.record
        if settings.STORE_CONTENT and answer.recorded:
            self._previous = record.interaction_id
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
    before = signal.signal(signal.SIGINT, lambda *_: deadline.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _said(problem: Problem) -> str:
    """The failure in words, with the fields at fault."""
    faults = [f"{each['field']}: {each['detail']}" for each in problem.errors]
    return f"{problem.title}. {'; '.join(faults) or problem.detail}"
