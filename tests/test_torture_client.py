"""The torture client sees what it is there for: its bookkeeping without sockets, then a server
that does one thing wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture import selftest
from tests.torture.ledger import Ledger, Rules
from tests.torture.wire import Request, Responses, filling, receipt

STRICT = Rules()


class TestLedger:
    def asked(self, count: int) -> tuple[Ledger, list[str]]:
        ledger = Ledger("r")
        return ledger, [ledger.ask() for _ in range(count)]

    def answered(self, count: int) -> tuple[Ledger, list[str]]:
        ledger, idents = self.asked(count)
        for ident in idents:
            ledger.answered(ident, "keep", 0.1)
        return ledger, idents

    def test_all_is_well(self):
        ledger, idents = self.answered(3)
        assert ledger.verdict(STRICT, idents) == []
        assert ledger.verdict(STRICT, None) == []

    def test_other_runs_do_not_count(self):
        ledger, idents = self.answered(1)
        assert ledger.verdict(STRICT, [*idents, "other-0", "other-0", "r-x-0"]) == []

    def test_executed_twice(self):
        ledger, idents = self.answered(3)
        assert ledger.verdict(STRICT, [*idents, "r-1"]) == ["1 executed too often: r-1 (2 times)"]

    def test_a_failed_one_may_have_been_executed_once(self):
        ledger, (first, second) = self.asked(2)
        ledger.answered(first, "keep", 0.1)
        ledger.failed(second, "EOF")
        for executed in ([first], [first, second]):
            assert ledger.verdict(STRICT, executed) == ["1 requests failed: r-1 EOF"]
        assert ledger.verdict(STRICT, [first, second, second])[1:] == [
            "1 executed too often: r-1 (2 times)"
        ]

    def test_answered_by_somebody_else(self):
        ledger, idents = self.answered(2)
        assert ledger.verdict(STRICT, idents[:1]) == [
            "1 answered without having been executed: r-1"
        ]

    def test_executed_out_of_nothing(self):
        ledger, idents = self.answered(1)
        assert ledger.verdict(STRICT, [*idents, "r-7"]) == [
            "1 executed without having been asked for: r-7"
        ]

    def test_withdrawn_ones_are_never_executed(self):
        ledger, (first, second) = self.asked(2)
        ledger.answered(first, "pipe", 0.1)
        ledger.withdrawn(second)
        assert ledger.verdict(STRICT, [first]) == []
        assert ledger.verdict(STRICT, [first, second]) == ["1 executed too often: r-1 (withdrawn)"]

    def test_every_request_has_one_end(self):
        ledger, (first, _) = self.asked(2)
        ledger.answered(first, "keep", 0.1)
        assert ledger.verdict(STRICT, None) == ["1 requests without an end: r-1"]
        with pytest.raises(AssertionError, match="r-0 has an end already"):
            ledger.failed(first, "EOF")

    def test_ends_and_strays(self):
        ledger, _ = self.answered(1)
        ledger.ends.append("EOF")
        ledger.strays.append("408 b''")
        for rules in (STRICT, Rules(may_close=True)):
            assert ledger.verdict(rules, None) == [
                "1 idle connections ended: EOF",
                "1 answers to nothing: 408 b''",
            ]

    def test_announced_ends_are_a_matter_of_the_rules(self):
        ledger, _ = self.answered(1)
        ledger.announced = 2
        assert ledger.verdict(Rules(may_close=True), None) == []
        assert ledger.verdict(STRICT, None) == [
            "2 connections were closed by a response that said so"
        ]

    def test_the_longest_wait_is_too(self):
        ledger, _ = self.answered(1)
        assert ledger.verdict(Rules(longest=0.2), None) == []
        assert ledger.verdict(Rules(longest=0.05), None) == ["one waited 0.100 s"]

    def test_silence_shows_nothing(self):
        assert Ledger("r").verdict(STRICT, []) == ["nothing was answered"]


class TestWire:
    WHOLE = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Id: a\r\n\r\nabc"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end"
    )

    def test_responses_cut_anywhere(self):
        for size in range(1, len(self.WHOLE)):
            responses, found = Responses(), []
            for at in range(0, len(self.WHOLE), size):
                found += responses.feed(self.WHOLE[at : at + size])
            last = responses.end()
            assert last is not None
            assert [r.status for r in found] == [100, 200, 200, 204]
            assert [r.body for r in found] == [b"", b"abc", b"abcd", b""]
            assert (last.body, last.closing) == (b"to the end", True)

    @pytest.mark.parametrize(
        "data",
        [
            b"SMTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        ],
    )
    def test_what_is_none(self, data: bytes):
        with pytest.raises(ValueError, match=r"no |without"):
            Responses().feed(data)

    def test_a_cut_one_has_no_end(self):
        for data in (
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na",
        ):
            responses = Responses()
            assert responses.feed(data) == []
            assert responses.within
            assert responses.end() is None

    def test_requests(self):
        assert Request("/3", "a", "r-0", closing=True).head() == (
            b"GET /3 HTTP/1.1\r\nHost: a\r\nX-Id: r-0\r\nConnection: close\r\n\r\n"
        )
        upload = Request("/", "a", "r-0", b"abcdefg", chunked=True)
        assert b"\r\nTransfer-Encoding: chunked\r\n" in upload.head()
        assert upload.content() == b"2\r\nab\r\n2\r\ncd\r\n2\r\nef\r\n1\r\ng\r\n0\r\n\r\n"
        assert Request("/", "a", "r-0", b"", chunked=True).content() == b"0\r\n\r\n"

    def test_bodies_are_each_requests_own(self):
        assert filling("r-0", 10) == b"r-0|r-0|r-"
        assert filling("r-0", 0) == b""
        assert receipt("r-0", b"abc") == b"r-0 3 891568578"


KEPT = "keep post"


@pytest.mark.parametrize(
    ("fault", "kinds", "seen"),
    [
        ("", "close keep post pipe drip idle", []),
        ("reset", KEPT, ["1 requests failed"]),
        ("silent end", KEPT, ["1 requests failed"]),
        ("cut", KEPT, ["1 requests failed"]),
        ("body", KEPT, ["1 requests failed"]),
        ("another", KEPT, ["1 requests failed"]),
        ("twice", KEPT, ["1 executed too often"]),
        ("idle end", KEPT, ["1 idle connections ended"]),
        ("unasked", KEPT, ["1 answers to nothing"]),
        ("announced", KEPT, ["1 connections were closed"]),
    ],
)
def test_it_sees(tmp_path: Path, fault: str, kinds: str, seen: list[str]):
    wrong = selftest.tried(tmp_path, fault, kinds).report()["wrong"]
    assert isinstance(wrong, list)
    assert [line[: len(start)] for line, start in zip(wrong, seen, strict=True)] == seen


def test_it_sees_what_was_executed_behind_the_last_answer(tmp_path: Path):
    run = selftest.tried(tmp_path, "behind", "pipe", Rules(may_close=True))
    (wrong,) = run.report()["wrong"]  # type: ignore[misc]
    assert wrong.startswith("1 executed too often")
    assert "(withdrawn)" in wrong


def test_one_reset_and_one_double_execution(tmp_path: Path):
    selftest.check(tmp_path)
