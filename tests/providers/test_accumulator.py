"""Whatever the pieces of an answer look like, the accumulator puts the same message together."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.accumulator import Accumulator, joined
from tests.stub_vendor import SOON
from tests.work import lines_run

EMOJI = "\N{DUCK}"
HIGH, LOW = "\ud83e", "\udd86"  # its halves
REPLACED = "\N{REPLACEMENT CHARACTER}"


def shown(*deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the deltas that a client sees, which make up the accumulator's message."""
    accumulator = Accumulator()
    repaired = [accumulator.add(delta) for delta in deltas]
    repaired.append(accumulator.finish())
    assert joined(repaired) == accumulator.message
    assert json.dumps(repaired, ensure_ascii=False).encode()
    return [delta for delta in repaired if delta]


def streamed(*deltas: dict[str, Any]) -> dict[str, Any]:
    return joined(shown(*deltas))


def whole(**message: Any) -> dict[str, Any]:
    accumulator = Accumulator()
    accumulator.add_whole(message)
    return accumulator.message


def broken_call(*pieces: dict[str, Any]) -> str | None:
    accumulator = Accumulator()
    for piece in pieces:
        accumulator.add({"tool_calls": [piece]})
    accumulator.finish()
    return accumulator.broken_call


def piece(arguments: Any = None, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a piece of a tool call as vendors send it."""
    function = {"name": name, "arguments": arguments}
    function = {key: value for key, value in function.items() if value is not None}
    return {**fields, "function": function}


def called(*deltas: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the names and the arguments of calls that were streamed."""
    calls = streamed(*({"tool_calls": pieces} for pieces in deltas)).get("tool_calls", [])
    assert len({call["id"] for call in calls}) == len(calls)
    assert all(call["id"] and call["type"] == "function" for call in calls)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


class TestMessage:
    def test_texts_are_joined_and_empty_fields_left_out(self):
        deltas = [
            {"role": "assistant", "content": "", "refusal": None, "tool_calls": []},
            {"reasoning": "Hm."},
            {"content": "Hel"},
            {"content": "lo", "annotations": []},
            {},
        ]
        assert shown(*deltas) == [{"reasoning": "Hm."}, {"content": "Hel"}, {"content": "lo"}]
        assert streamed(*deltas) == {"reasoning": "Hm.", "content": "Hello"}

    def test_an_unknown_field_is_kept(self):
        assert streamed({"x": "a", "n": 1}, {"x": "b", "n": 2}) == {"x": "ab", "n": 2}

    def test_a_refusal_is_joined(self):
        assert streamed({"refusal": "I "}, {"refusal": "won't."}) == {"refusal": "I won't."}

    def test_audio_is_joined(self):
        deltas = [
            {"audio": {"id": "audio_1", "transcript": "Hel"}},
            {"audio": {"transcript": "lo", "data": "AAAA"}},
            {"audio": {"data": "BBBB", "expires_at": 5}},
        ]
        assert streamed(*deltas)["audio"] == {
            "id": "audio_1",
            "transcript": "Hello",
            "data": "AAAABBBB",
            "expires_at": 5,
        }

    def test_images_and_annotations_are_appended(self):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        note = {"type": "url_citation", "text": "a", "url_citation": {"url": "https://example.com"}}
        message = streamed({"images": [image], "annotations": [note]}, {"annotations": [note]})
        assert message == {"images": [image], "annotations": [note, note]}
        assert streamed({"images": [image]}, {"images": [image]}) == {"images": [image, image]}

    def test_a_legacy_function_call_is_joined(self):
        deltas = [
            {"function_call": {"name": "add", "arguments": ""}},
            {"function_call": {"arguments": '{"a":'}},
            {"function_call": {"arguments": "1}"}},
        ]
        assert shown(*deltas) == deltas
        assert streamed(*deltas) == {"function_call": {"name": "add", "arguments": '{"a":1}'}}

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [({"a": 1}, '{"a":1}'), (None, "{}"), ("", "{}"), (f'"{EMOJI}"', f'"{EMOJI}"')],
    )
    def test_arguments_of_a_legacy_function_call_are_repaired(self, arguments: Any, text: str):
        message = {"function_call": {"name": "add", "arguments": arguments}}
        expected = {"function_call": {"name": "add", "arguments": text}}
        assert streamed(message) == whole(**message) == expected
        again = {"function_call": {"name": "add", "arguments": ""}}
        assert streamed(again, message, again) == expected

    def test_a_legacy_function_call_can_be_broken(self):
        accumulator = Accumulator()
        accumulator.add({"function_call": {"name": "add", "arguments": '{"a":'}})
        accumulator.finish()
        assert accumulator.broken_call == "add"

    def test_mistrals_lists_of_content_are_thoughts_and_text(self):
        thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
        image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
        text = {"type": "text", "text": "Hello"}
        message = {"reasoning_content": "Hm.", "content": "Hello", "images": [image]}
        assert streamed({"content": [thinking]}, {"content": [text, image]}) == message
        assert whole(content=[thinking, text, image]) == message

    def test_other_content_parts_with_text(self):
        summary = [{"type": "summary_text", "text": "Hm."}]
        parts = [
            {"type": "reasoning", "summary": summary},
            {"type": "thinking", "thinking": "Well."},
            {"type": "text", "text": "Hello"},
            {"type": "refusal", "refusal": "No."},
        ]
        message = {"reasoning_content": "Hm.Well.", "content": "Hello", "refusal": "No."}
        assert streamed(*({"content": [part]} for part in parts)) == message
        assert whole(content=parts) == message

    @pytest.mark.parametrize(
        "content",
        [
            5,
            {"a": 1},
            [None, "a", 5],
            [{"type": "text"}, {"type": "thinking"}, {"type": "thinking", "thinking": [5]}],
        ],
    )
    def test_content_of_another_kind_is_ignored(self, content: Any):
        assert streamed({"content": content}) == {}

    def test_values_can_be_encoded(self):
        value = {"a\ud800": ["\0", Decimal("0.5"), 10**30, 10**400, float("inf"), 2**62]}
        cleaned = {f"a{REPLACED}": [REPLACED, 0.5, 1e30, None, None, 2**62]}
        assert streamed({"x": value}) == {"x": cleaned}

    @pytest.mark.parametrize("whole", [-(2**63), 2**63, 2**64 - 1])
    def test_integers_of_64_bits_stay_integers(self, whole: int):
        assert str(streamed({"x": [whole]})["x"]) == f"[{whole}]"

    @pytest.mark.parametrize("larger", [-(2**63) - 1, 2**64])
    def test_larger_integers_are_rounded(self, larger: int):
        assert str(streamed({"x": [larger]})["x"]) == f"[{float(larger)}]"

    @pytest.mark.parametrize("odd", [["a"], {"a": 1}, 5], ids=repr)
    def test_a_text_in_a_field_with_another_value_replaces_it(self, odd: Any):
        tags = "<think>Hm.</think>Hi"
        assert streamed({"reasoning_content": odd, "content": tags}) == {
            "reasoning_content": "Hm.",
            "content": "Hi",
        }
        refusal = [{"type": "refusal", "refusal": "No."}]
        assert streamed({"refusal": odd, "content": refusal}) == {"refusal": "No."}

    @pytest.mark.parametrize("odd", ["a", {"a": 1}, 5], ids=repr)
    def test_an_image_part_replaces_images_that_are_no_list(self, odd: Any):
        image = {"type": "image_url", "image_url": {"url": "x"}}
        assert streamed({"images": odd, "content": [image]}) == {"images": [image]}

    def test_values_are_not_nested_without_end(self):
        value: Any = 1
        for _ in range(3000):
            value = [value]
        assert str(streamed({"x": value})["x"]).count("[") == 100


class TestCharacters:
    def test_a_split_character_is_joined(self):
        deltas = [{"content": f"ok {HIGH}"}, {"content": f"{LOW}!"}]
        assert shown(*deltas) == [{"content": "ok "}, {"content": f"{EMOJI}!"}]
        assert streamed({"reasoning": HIGH}, {"reasoning": LOW}) == {"reasoning": EMOJI}
        assert called([piece(f'{{"a":"{HIGH}', "f", index=0)], [piece(f'{LOW}"}}', index=0)]) == [
            ("f", f'{{"a":"{EMOJI}"}}')
        ]

    def test_a_split_character_inside_an_object_is_joined(self):
        texts = [{"type": "reasoning.text", "index": 0, "text": half} for half in (HIGH, LOW)]
        [detail] = details(*([text] for text in texts))
        assert detail["text"] == EMOJI
        halves = [{"function_call": {"name": "f", "arguments": f'"{HIGH}'}}]
        halves += [{"function_call": {"arguments": f'{LOW}"'}}]
        assert streamed(*halves)["function_call"]["arguments"] == f'"{EMOJI}"'
        halves = [{"audio": {"transcript": half}} for half in (HIGH, LOW)]
        assert streamed(*halves) == {"audio": {"transcript": EMOJI}}

    @pytest.mark.parametrize(
        ("pieces", "text"),
        [
            ([HIGH], REPLACED),
            ([LOW], REPLACED),
            ([HIGH, "a"], f"{REPLACED}a"),
            ([HIGH, HIGH, LOW], f"{REPLACED}{EMOJI}"),
            ([f"{HIGH}{LOW}"], EMOJI),
            (["a\0", "\0é"], f"a{REPLACED}{REPLACED}é"),
        ],
    )
    def test_lone_halves_and_nuls_are_replaced(self, pieces: list[str], text: str):
        assert streamed(*({"content": each} for each in pieces)) == {"content": text}
        assert streamed(*({"x": each} for each in pieces)) == {"x": text}

    def test_halves_in_different_fields_do_not_meet(self):
        message = streamed({"content": HIGH}, {"reasoning": LOW})
        assert message == {"reasoning": REPLACED, "content": REPLACED}


class TestThinkTags:
    @pytest.mark.parametrize(
        ("text", "thoughts", "answer"),
        [
            ("<think>a</think>b", "a", "b"),
            ("\n <think>\na\n</think>\n\nb\n", "\na\n", "b\n"),
            ("<think>a</think>\n<think>b</think>c", "ab", "c"),
            ("<think>a", "a", ""),
            ("<think>a</thin", "a</thin", ""),
            ("<think></think>b", "", "b"),
            ("<think>a</think>\n", "a", ""),
            ("<think>a < b</think>c", "a < b", "c"),
            ("<think>a</think><b>c</b>", "a", "<b>c</b>"),
            ("b <think>a</think>", "", "b <think>a</think>"),
            ("b '<think>' <think>a</think>", "", "b '<think>' <think>a</think>"),
            ("<thi", "", "<thi"),
            ("  <thinking>", "", "  <thinking>"),
            ("`</think>` ends", "", "`</think>` ends"),
            ("a </thin", "", "a </thin"),
            ("</think>\n\nb", "", "b"),
            ("<think>a</think>b `</think>` </think>", "a", "b `</think>` </think>"),
        ],
    )
    def test_tags_in_pieces_of_any_length(self, text: str, thoughts: str, answer: str):
        message = {"reasoning_content": thoughts, "content": answer}
        expected = {name: value for name, value in message.items() if value}
        for length in range(1, len(text) + 1):
            pieces = [text[start : start + length] for start in range(0, len(text), length)]
            assert streamed(*({"content": each} for each in pieces)) == expected, pieces

    def test_a_lone_end_disappears_from_a_stream(self):
        text = "thoughts</think>\n\nanswer, `</think>`"
        for length in range(1, len(text) + 1):
            pieces = [text[start : start + length] for start in range(0, len(text), length)]
            assert streamed(*({"content": each} for each in pieces)) == {
                "content": "thoughts\n\nanswer, `</think>`"
            }

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a</think>\n\nb", {"reasoning_content": "a", "content": "b"}),
            ("</think>b", {"content": "b"}),
            ("a '</think>' b", {"content": "a '</think>' b"}),
            (
                "a '</think>' b</think>c",
                {"reasoning_content": "a '</think>' b", "content": "c"},
            ),
            ("<think>a</think>b", {"reasoning_content": "a", "content": "b"}),
        ],
    )
    def test_a_lone_end_in_a_whole_answer_ends_its_thoughts(
        self, content: str, message: dict[str, Any]
    ):
        assert whole(content=content) == message

    def test_text_is_shown_as_soon_as_it_cannot_be_a_tag(self):
        deltas = [{"content": each} for each in ("<", "b", ">", "a <", "/b>")]
        assert shown(*deltas) == [{"content": each} for each in ("<b", ">", "a ", "</b>")]

    def test_thoughts_in_tags_are_shown_at_once(self):
        deltas = [{"content": each} for each in ("<think>", "Hm, ", "well</", "think>", "Hi")]
        assert shown(*deltas) == [
            {"reasoning_content": "Hm, "},
            {"reasoning_content": "well"},
            {"content": "Hi"},
        ]

    def test_blanks_before_the_text_are_put_together_once(self):
        accumulator = Accumulator()
        begun = time.monotonic()
        for _ in range(50_000):
            assert accumulator.add_text(" " * 40) == {}
        assert accumulator.add_text("a") == {"content": " " * 2_000_000 + "a"}
        assert time.monotonic() - begun < SOON


class TestReasoningDetails:
    def test_each_signed_part_of_thoughts_has_its_own_text(self):
        parts = [{"type": "text", "text": each, "signature": each.upper()} for each in "ab"]
        message = whole(content=[{"type": "thinking", "thinking": parts}])
        assert message["reasoning_content"] == "ab"
        found = [(each["text"], each["signature"]) for each in message["reasoning_details"]]
        assert found == [("a", "A"), ("b", "B")]

    def test_pieces_with_an_index_are_joined(self):
        deltas = [
            {"type": "reasoning.text", "index": 0, "text": "Hel", "format": "x"},
            {"type": "reasoning.text", "index": 1, "text": "Wo"},
            {"type": "reasoning.text", "index": 0, "text": "lo", "format": "x"},
            {"type": "reasoning.text", "index": 0, "text": None, "signature": "s"},
            {"type": "reasoning.text", "index": 1, "text": "rld"},
        ]
        first = {"index": 0, "text": "Hello", "format": "x", "signature": "s"}
        assert details(*([each] for each in deltas)) == [
            {"type": "reasoning.text", **first},
            {"type": "reasoning.text", "index": 1, "text": "World"},
        ]

    def test_types_are_kept_apart(self):
        text = {"type": "reasoning.text", "index": 0, "text": "a"}
        data = {"type": "reasoning.encrypted", "index": 0, "data": "b", "id": "call_1"}
        assert details([text], [data], [text]) == [{**text, "text": "aa"}, data]

    def test_without_an_index_a_piece_continues_the_last_one_of_its_type(self):
        text = {"type": "reasoning.text", "text": "a"}
        summary = {"type": "reasoning.summary", "summary": "b"}
        data = {"type": "reasoning.encrypted", "data": "c"}
        deltas = [[text], [text], [summary], [summary], [data], [text]]
        assert details(*deltas) == [
            {**text, "text": "aa"},
            {**summary, "summary": "bb"},
            data,
            text,
        ]

    def test_another_id_is_another_detail(self):
        first = {"type": "reasoning.encrypted", "index": 0, "id": "1", "data": "a"}
        second = {"type": "reasoning.encrypted", "index": 0, "id": "2", "data": "b"}
        more = {"type": "reasoning.encrypted", "index": 0, "data": "c"}
        assert details([first], [second], [more]) == [first, {**second, "data": "bc"}]

    def test_details_of_one_message_are_not_joined(self):
        text = {"type": "reasoning.text", "text": "a"}
        indexed = {"type": "reasoning.encrypted", "index": 0, "data": "b"}
        values = [text, text, indexed, indexed, "odd", 5]
        assert whole(content="Hi", reasoning_details=values)["reasoning_details"] == values

    @pytest.mark.parametrize("odd", [["a"], {"a": 1}, 5], ids=repr)
    def test_a_type_may_be_any_value(self, odd: Any):
        detail = {"type": odd, "index": 0, "text": "a"}
        assert details([detail], [detail]) == [{**detail, "text": "aa"}]


def details(*lists: list[Any]) -> Any:
    return streamed(*({"reasoning_details": each} for each in lists))["reasoning_details"]


class TestToolCalls:
    def test_pieces_are_shown_as_they_come(self):
        deltas = [
            {"tool_calls": [piece("", "f", index=0, id="a", type="function")]},
            {"tool_calls": [piece('{"x"', index=0)]},
            {"tool_calls": [piece(":1}", index=0), piece("{}", "g", index=1, id="b")]},
            {"content": "Hi"},
        ]
        g = {
            "index": 1,
            "id": "b",
            "type": "function",
            "function": {"name": "g", "arguments": "{}"},
        }
        assert shown(*deltas) == [
            *deltas[:2],
            {"tool_calls": [piece(":1}", index=0), g]},
            deltas[3],
        ]

    @pytest.mark.parametrize("arguments", ["", None, " ", {}])
    def test_blank_arguments_are_an_empty_object(self, arguments: Any):
        call = piece(arguments, "f", id="a")
        expected = {"name": "f", "arguments": "{}"}
        for message in (streamed({"tool_calls": [call]}), whole(tool_calls=[call])):
            [answer] = message["tool_calls"]
            assert answer["id"] == "a"
            assert json.loads(answer["function"]["arguments"]) == {}
            assert answer["function"] | {"arguments": "{}"} == expected

    def test_arguments_that_are_an_object_become_a_string(self):
        value = {"city": "Évora", "n": Decimal("0.5"), "big": 10**30}
        text = '{"city":"Évora","n":0.5,"big":1e+30}'
        [(name, arguments)] = called([piece(value, "f", index=0)])
        assert (name, json.loads(arguments)) == ("f", json.loads(text))
        [call] = whole(tool_calls=[piece({"city": "Oslo"}, "f")])["tool_calls"]
        assert call["function"]["arguments"] == '{"city":"Oslo"}'

    def test_nothing_is_shown_before_the_name(self):
        deltas = [
            {"tool_calls": [piece("", index=0, id="a")]},
            {"tool_calls": [piece('{"x":', index=0)]},
            {"tool_calls": [piece("1", "f", index=0)]},
            {"tool_calls": [piece("}", index=0)]},
        ]
        assert [delta["tool_calls"][0]["function"] for delta in shown(*deltas)] == [
            {"name": "f", "arguments": '{"x":1'},
            {"arguments": "}"},
        ]

    def test_a_call_without_a_name_is_left_out(self):
        assert called([piece("{}", index=0)], [piece("{}", "f", index=1)]) == [("f", "{}")]

    def test_pieces_of_another_kind_are_ignored(self):
        assert streamed({"tool_calls": "f"}, {"tool_calls": [None, "f", 5]}) == {}
        assert called([{"index": "x", "id": 5, "function": {"name": "f", "arguments": "{}"}}]) == [
            ("f", "{}")
        ]

    def test_other_fields_of_a_call_are_kept(self):
        signature = {"google": {"thought_signature": "s"}}
        deltas = [
            [piece("{}", "f", index=0, id="a", extra_content=signature)],
            [piece("", index=0, extra_content=signature, x=None)],
        ]
        [call] = streamed(*({"tool_calls": each} for each in deltas))["tool_calls"]
        assert call["extra_content"] == signature

    def test_a_custom_tool_takes_any_text(self):
        deltas = [
            {"index": 0, "id": "a", "type": "custom", "custom": {"name": "ask", "input": ""}},
            {"index": 0, "custom": {"input": "Who "}},
            {"index": 0, "custom": {"name": "ask", "input": "is"}, "id": "a"},
            {"index": 0, "custom": {"input": " there?"}},
        ]
        custom = {"name": "ask", "input": "Who is there?"}
        [call] = streamed(*({"tool_calls": [each]} for each in deltas))["tool_calls"]
        assert call == {"id": "a", "type": "custom", "custom": custom}
        assert broken_call(*deltas) is None
        assert broken_call(deltas[0]) is None

    def test_arguments_that_are_not_whole_are_a_broken_call(self):
        assert broken_call(piece('{"x":', "f", index=0)) == "f"
        assert broken_call(piece('{"x":', "f", index=0), piece("1}", index=0)) is None
        assert broken_call(piece("{}", "f", index=0), piece('{"', "g", index=1)) == "g"
        assert broken_call(piece("", "f", index=0)) is None
        accumulator = Accumulator()
        accumulator.add_whole({"tool_calls": [piece('{"x', "f")]})
        assert accumulator.broken_call == "f"

    def test_arguments_without_a_name_are_a_broken_call(self):
        pieces = [piece("{}", "f", index=0, id="a"), piece('{"x": 1}', index=0, id="b")]
        assert broken_call(*pieces) == ""
        assert broken_call(*pieces, piece("", "g", index=0)) is None
        accumulator = Accumulator()
        accumulator.add_whole({"function_call": {"arguments": A}})
        assert accumulator.broken_call == ""

    @pytest.mark.parametrize("arguments", ["", " ", None])
    def test_a_call_without_a_name_or_arguments_is_not_broken(self, arguments: str | None):
        assert (
            broken_call(piece(A, "f", index=0, id="a"), piece(arguments, index=0, id="b")) is None
        )

    def test_a_new_id_in_each_piece_does_not_break_a_call(self):
        pieces = [piece('{"x":', "f", index=0, id="a"), piece("1}", index=0, id="b")]
        assert broken_call(*pieces, piece("", index=0, id="c")) is None

    def test_the_work_for_a_call_does_not_grow_with_their_number(self):
        def work(count: int) -> int:
            accumulator = Accumulator()
            calls = [piece("{}", "f", index=number, id=f"c{number}") for number in range(count)]
            return lines_run(lambda: [accumulator.add({"tool_calls": [each]}) for each in calls])

        assert work(400) < 3 * work(200)


A, B = '{"x":1}', '{"x":2}'


class TestNumbering:
    def test_indexes_may_be_interleaved_and_start_anywhere(self):
        deltas = [
            [piece("", "f", index=1, id="a"), piece("", "g", index=5, id="b")],
            [piece('{"x"', index=5), piece('{"x"', index=1)],
            [piece(":1}", index=1)],
            [piece(":2}", index=5)],
        ]
        assert called(*deltas) == [("f", A), ("g", B)]

    def test_all_index_0_with_ids(self):
        deltas = [
            [piece('{"x"', "f", index=0, id="a")],
            [piece(":1}", index=0)],
            [piece("", "f", index=0, id="b")],
            [piece(B, index=0)],
        ]
        assert called(*deltas) == [("f", A), ("f", B)]

    def test_all_index_0_without_ids(self):
        calls = [piece(A, "f", index=0), piece(B, "f", index=0), piece("", "g", index=0)]
        expected = [("f", A), ("f", B), ("g", "{}")]
        assert called(*([call] for call in calls)) == expected
        assert called(calls) == expected

    def test_ids_without_an_index(self):
        assert called(
            [piece('{"x"', "f", id="a")],
            [piece('{"x"', "f", id="b")],
            [piece(":1}", id="a")],
            [piece(":2}", id="b")],
        ) == [("f", A), ("f", B)]

    def test_an_id_on_the_first_piece_only(self):
        deltas = [[piece("", "f", id="a")], [piece(A)], [piece("", "f", id="b")], [piece(B)]]
        assert called(*deltas) == [("f", A), ("f", B)]

    def test_neither_an_index_nor_ids(self):
        deltas = [[piece("", "f")], [piece('{"x"')], [piece(":1}")], [piece("", "f")], [piece(B)]]
        assert called(*deltas) == [("f", A), ("f", B)]
        assert called([piece(A, "f"), piece(B, "f")], [piece("", "g")]) == [
            ("f", A),
            ("f", B),
            ("g", "{}"),
        ]

    @pytest.mark.parametrize("fields", [{}, {"index": 0}, {"id": "a"}, {"index": 0, "id": "a"}])
    def test_repeated_names(self, fields: dict[str, Any]):
        deltas = [piece(text, "f", **fields) for text in ("", '{"x"', ":1", "}", "", "\n")]
        assert called(*([each] for each in deltas)) == [("f", f"{A}\n")]

    def test_an_id_of_several_calls(self):
        calls = [piece(A, "f", id="f"), piece(B, "f", id="f"), piece("{}", "g", id="f")]
        expected = [("f", A), ("f", B), ("g", "{}")]
        assert called(calls) == expected
        assert called(*([call] for call in calls)) == expected
        numbered = [{**call, "index": index} for index, call in enumerate(calls)]
        assert called(numbered) == expected
        [first, *_] = whole(tool_calls=calls)["tool_calls"]
        assert first["id"] == "f"

    def test_an_id_before_its_name_begins_a_call_after_a_whole_one(self):
        deltas = [
            [piece(A, "f", index=0, id="a")],
            [piece("", index=0, id="b")],
            [piece(B, "f", index=0)],
        ]
        assert called(*deltas) == [("f", A), ("f", B)]
        calls = streamed(*({"tool_calls": pieces} for pieces in deltas))["tool_calls"]
        assert [call["id"] for call in calls] == ["a", "b"]

    def test_an_id_that_comes_late_stays_with_the_call(self):
        deltas = [[piece("", "f", index=0)], [piece(A, index=0, id="a")]]
        assert called(*deltas) == [("f", A)]


# With characters of two code units, and with what may be the beginning of a tag.
texts = st.text(f'{EMOJI}\U0010ffffé\u2028 \n\t"\\{{}}:ab</think', max_size=20)
json_objects = st.dictionaries(
    texts,
    texts | st.integers(-(2**63), 2**63 - 1) | st.none() | st.lists(texts, max_size=2),
    max_size=2,
)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Return the text in pieces, which may be empty, and may begin and end inside a character."""
    units = text.encode("utf-16-le")
    places = st.integers(0, len(units) // 2).map(lambda place: 2 * place)
    places = sorted(draw(st.lists(places, max_size=6)))
    ends = zip([0, *places], [*places, len(units)], strict=True)
    return [units[start:end].decode("utf-16-le", "surrogatepass") for start, end in ends]


@st.composite
def interleaved(draw: st.DrawFn, queues: list[list[Any]]) -> list[Any]:
    """Return the elements of all queues in one list, each queue's in their order."""
    order = draw(st.permutations([number for number, q in enumerate(queues) for _ in q]))
    left = [iter(queue) for queue in queues]
    return [next(left[number]) for number in order]


@dataclass(frozen=True)
class Numbering:
    """How a server numbers the pieces of calls. `mixed`: pieces of several calls may alternate."""

    index: Callable[[int], int | str | None] = lambda number: None
    ids: str = "none"  # "first" or "each"
    mixed: bool = False
    whole: bool = False


NUMBERINGS = {
    "indexes and ids": Numbering(index=lambda number: number, ids="first", mixed=True),
    "indexes and ids on each piece": Numbering(index=lambda number: number, ids="each", mixed=True),
    "indexes alone": Numbering(index=lambda number: number, mixed=True),
    "indexes as strings": Numbering(index=lambda number: str(number + 1), mixed=True),
    "indexes with gaps": Numbering(index=lambda number: 3 * number + 1, ids="first", mixed=True),
    "index 0 and ids": Numbering(index=lambda number: 0, ids="first"),
    "index 0 and ids on each piece": Numbering(index=lambda number: 0, ids="each", mixed=True),
    "index 0, each call whole": Numbering(index=lambda number: 0, whole=True),
    "index 0 alone": Numbering(index=lambda number: 0),
    "ids": Numbering(ids="first"),
    "ids on each piece": Numbering(ids="each", mixed=True),
    "nothing, each call whole": Numbering(whole=True),
    "nothing": Numbering(),
}


@st.composite
def call_pieces(
    draw: st.DrawFn, number: int, call: dict[str, Any], numbering: Numbering
) -> list[dict[str, Any]]:
    """Return the pieces of a call, as a server with that numbering sends them."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    cuts: list[Any] = [arguments] if numbering.whole else draw(cut(arguments))
    if len(cuts) == 1 and draw(st.booleans()):
        cuts = [json.loads(arguments)]
    repeated = draw(st.booleans())
    pieces = []
    for place, text in enumerate(cuts):
        with_id = numbering.ids == "each" or (numbering.ids == "first" and not place)
        fields = {
            "index": numbering.index(number),
            "id": call["id"] if with_id else draw(st.sampled_from([None, ""])),
            "type": None if place else "function",
        }
        fields = {key: value for key, value in fields.items() if value is not None}
        pieces.append(piece(text, name if repeated or not place else None, **fields))
    return pieces


@st.composite
def call_deltas(
    draw: st.DrawFn, calls: list[dict[str, Any]], numbering: Numbering
) -> list[dict[str, Any]]:
    queues = [draw(call_pieces(*numbered, numbering)) for numbered in enumerate(calls)]
    if numbering.mixed:
        # Calls begin in their order.
        firsts, rests = [queue[:1] for queue in queues], [queue[1:] for queue in queues]
        deltas = [[first for [first] in firsts]] if draw(st.booleans()) else firsts
        deltas = [*deltas, *([each] for each in draw(interleaved(rests)))]
    elif all(len(queue) == 1 for queue in queues) and draw(st.booleans()):
        deltas = [[each for [each] in queues]]
    else:
        deltas = [[each] for queue in queues for each in queue]
    return [{"tool_calls": pieces} for pieces in deltas if pieces]


@st.composite
def detail_deltas(draw: st.DrawFn, details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    deltas = []
    for detail in details:
        name = next(iter(detail.keys() & {"text", "summary"}), None)
        rest = {key: value for key, value in detail.items() if key != name}
        last = {"signature": rest.pop("signature")} if "signature" in rest and name else {}
        pieces = (
            [{**rest, name: text} for text in draw(cut_characters(detail[name]))] if name else []
        )
        deltas += pieces or [rest]
        deltas[-1] = {**deltas[-1], **last}
    return [{"reasoning_details": [each]} for each in deltas]


@st.composite
def cut_characters(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    names = st.sampled_from(["add", "get_weather"])
    styles = st.fixed_dictionaries(
        {"ensure_ascii": st.booleans(), "indent": st.none() | st.just(1)}
    )
    arguments = st.builds(lambda value, style: json.dumps(value, **style), json_objects, styles)
    calls = draw(st.lists(st.tuples(names, arguments), max_size=3))
    kinds = draw(st.lists(st.sampled_from(["text", "summary", "encrypted"]), max_size=3))
    details = []
    for index, kind in enumerate(kinds):
        detail = {"type": f"reasoning.{kind}", "index": index, "format": "x"}
        detail |= {"data" if kind == "encrypted" else kind: draw(texts)}
        detail |= draw(st.sampled_from([{}, {"id": f"r{index}"}, {"signature": "s"}]))
        details.append(detail)
    message = {
        "reasoning_content": draw(texts),
        "reasoning_details": details,
        "content": draw(texts),
        "tool_calls": [
            {"id": f"c{number}", "type": "function", "function": {"name": n, "arguments": a}}
            for number, (n, a) in enumerate(calls)
        ],
    }
    return {name: value for name, value in message.items() if value}


@pytest.mark.parametrize("numbering", NUMBERINGS)
@settings(max_examples=40)
@given(data=st.data(), message=messages())
def test_any_answer_in_any_pieces_comes_back(
    numbering: str, data: st.DataObject, message: dict[str, Any]
):
    how = NUMBERINGS[numbering]
    queues = [
        [{name: piece} for piece in data.draw(cut(message[name]))]
        for name in ("content", "reasoning_content")
        if name in message
    ]
    queues.append(data.draw(detail_deltas(message.get("reasoning_details", []))))
    queues.append(data.draw(call_deltas(message.get("tool_calls", []), how)))
    deltas = data.draw(interleaved(queues))
    answer = streamed(*deltas)
    calls = answer.get("tool_calls", [])
    assert len({call["id"] for call in calls}) == len(calls)
    assert comparable(answer, ids=how.ids != "none") == comparable(message, ids=how.ids != "none")


@given(messages())
def test_any_whole_answer_comes_back(message: dict[str, Any]):
    assert whole(**message) == message


def comparable(message: dict[str, Any], *, ids: bool) -> dict[str, Any]:
    """Return the message with arguments as values: those sent as an object are written anew."""
    calls = [
        {
            "id": call["id"] if ids else "",
            "name": call["function"]["name"],
            "arguments": json.loads(call["function"]["arguments"]),
        }
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls}
