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

from chat.api.exceptions import convert_exception
from chat.api.serializers import AnswerSerializer, ChatSerializer
from chat.callers import Caller
from chat.conversation import ChatRequest
from chat.errors import Problem, StorageFailed
from chat.management.arguments import parse_owner, parse_user
from chat.management.console import INTERRUPTED, ConsoleCommand, describe_storage_failure, printable
from chat.service import AnswerDelta, ChatResult, stream
from chat.storage.transcripts import answered_message
from chat.usage import format_usd
from providers.base import DeltaThoughts, Message, content_text
from providers.deadline import Deadline

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Command(ConsoleCommand):
    help = (
        "Chat with a model through the same service as API clients: each question leaves a "
        "record, and the answer is streamed. On a terminal, Ctrl-C stops an answer, Ctrl-D or "
        "/quit ends, and the arrow keys recall earlier lines. In a pipe (echo Hi | manage.py "
        "chat), standard input is one question, the answer goes to standard output and the rest "
        "to standard error; the command exits with 1 if there is no answer. API keys and rate "
        "limits do not apply."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--user", type=parse_user, default="console", help="user id (console)")
        parser.add_argument("--owner", type=parse_owner, default="default", help="owner (default)")
        parser.add_argument("--model", help="an allowed model: its id, or provider:id")
        parser.add_argument("--system", help="system instructions")
        parser.add_argument("--max-tokens", type=int, help="maximum output tokens")
        parser.add_argument(
            "--continue", dest="previous", metavar="ID", help="interaction to continue"
        )
        parser.add_argument(
            "--format",
            choices=["text", "json"],
            default="text",
            help="json: one line of JSON for each complete answer",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._caller = Caller(owner=options["owner"], key_id="console")
        self._fields: dict[str, Any] = {"userId": options["user"]}
        self._fields |= {name: options[name] for name in ("model", "system", "max_tokens")}
        self._json = options["format"] == "json"
        self._thinking = False
        self._dim = self.stderr.isatty() and not options["no_color"]
        self._previous: str | None = options["previous"]
        if sys.stdin.isatty():
            self._talk()
            return
        try:
            complete = self._ask(_piped_text().removesuffix("\n"))
        except Problem as exc:
            raise CommandError(_describe_problem(exc)) from exc
        if not complete:
            raise CommandError("Stopped.", returncode=INTERRUPTED)

    def _talk(self) -> None:
        """Ask the questions typed, until the end of input."""
        import readline  # noqa: F401  # gives input() a history

        self._note("Ctrl-C stops an answer; Ctrl-D or /quit ends.")
        if not settings.STORE_CONTENT:
            self._note("STORE_CONTENT is false: questions do not continue the conversation.")
        for prompt in _prompts():
            try:
                if not self._ask(prompt):
                    self._note("(stopped)")
            except Problem as exc:
                self.stderr.write(_describe_problem(exc))

    def _ask(self, prompt: str) -> bool:
        """Stream the answer and report its cost; return False if it was stopped. Raises Problem."""
        deadline = Deadline(
            settings.STREAM_TIMEOUT_SECONDS, idle_seconds=settings.STREAM_IDLE_SECONDS
        )
        try:
            with _cancel_on_signals(deadline):
                answer = self._stream(self._chat_request(prompt), deadline)
            self._report(answer)
        except OSError:  # of the output
            raise
        except Exception as exc:
            if not deadline.cancelled:
                raise convert_exception(exc) from exc
        return not deadline.cancelled

    def _stream(self, request: ChatRequest, deadline: Deadline) -> ChatResult:
        answer: ChatResult | None = None
        begun = False
        thoughts = DeltaThoughts()
        try:
            for event in stream(caller=self._caller, request=request, deadline=deadline):
                if isinstance(event, AnswerDelta):
                    self._write_delta(event.delta.message, thoughts)
                elif isinstance(event, ChatResult):
                    answer = event
                    if not begun:
                        self._write_delta(answered_message(event.record), thoughts)
                else:
                    continue
                begun = True
        finally:
            if begun:
                self._end_thoughts()
                self._write("\n")
        if answer is None:
            raise AssertionError("the stream ended without a result")
        return answer

    def _chat_request(self, prompt: str) -> ChatRequest:
        fields = {**self._fields, "prompt": prompt, "previous_interaction_id": self._previous}
        return ChatRequest(**ChatSerializer().run_validation(fields))

    def _report(self, answer: ChatResult) -> None:
        record = answer.record
        if settings.STORE_CONTENT and answer.recorded:
            self._previous = record.interaction_id
        if self._json:
            body = AnswerSerializer().to_representation(record)
            self.stdout.write(json.dumps({**body, "recorded": answer.recorded}))
            return
        cost = format_usd(record.usage.cost_usd)
        parts = (
            printable(record.model),
            None if record.usage.total_tokens is None else f"{record.usage.total_tokens} tokens",
            cost and f"{cost} USD",
            f"{record.latency_ms} ms",
            None if record.finish_reason == "stop" else record.finish_reason,
            record.interaction_id if answer.recorded else "not recorded",
        )
        self._note(" · ".join(part for part in parts if part))

    def _write_delta(self, message: Message, thoughts: DeltaThoughts) -> None:
        """Write a piece of an answer; on a terminal, the thoughts before it, dimmed."""
        thought = thoughts.add(message)
        if thought and self._dim and not self._json:
            self._thinking = True
            self._write_error(f"{DIM}{printable(thought)}{PLAIN}")
        if text := content_text(message.get("content")) or message.get("refusal"):
            self._end_thoughts()
            self._write(printable(text))

    def _end_thoughts(self) -> None:
        if self._thinking:
            self._thinking = False
            self._write_error("\n\n")

    def _write_error(self, text: str) -> None:
        self.stderr.write(text, ending="", style_func=str)
        self.stderr.flush()

    def _write(self, text: str) -> None:
        if self._json:
            return
        self.stdout.write(text, ending="")
        self.stdout.flush()

    def _note(self, text: str) -> None:
        """Write a line about the conversation, dimmed on a terminal."""
        self.stderr.write(f"{DIM}{text}{PLAIN}" if self._dim else text, style_func=str)


def _prompts() -> Iterator[str]:
    """Yield the lines typed, without empty ones."""
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
def _cancel_on_signals(deadline: Deadline) -> Iterator[None]:
    """On a signal, cancel the vendor call instead of the process, so that the record is settled.

    Signals other than Ctrl-C end the process after that.
    """
    received: list[int] = []

    def stop(number: int, _: Any) -> None:
        received.append(number)
        # In another thread: this one may hold the lock that cancel() needs.
        threading.Thread(target=deadline.cancel).start()

    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as with nohup
        signals.append(signal.SIGHUP)
    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if ends := set(received) - {signal.SIGINT}:
            signal.raise_signal(ends.pop())


def _piped_text() -> str:
    """Return all of standard input. Raises CommandError if it is no text."""
    try:
        text = sys.stdin.read()
        text.encode()  # in some locales, Python reads invalid bytes as surrogates
    except UnicodeError as exc:
        raise CommandError("Standard input must be a text in UTF-8.") from exc
    return text


def _describe_problem(problem: Problem) -> str:
    """Return the title, and the invalid fields or the detail; a hint if the storage failed."""
    if isinstance(problem, StorageFailed):
        return describe_storage_failure(problem.__cause__)
    fields = [f"{each['field']}: {each['detail']}" for each in problem.errors]
    return f"{problem.title}. {'; '.join(fields) or problem.detail}"
