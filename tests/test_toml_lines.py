"""toml_lines: the right line or none."""

import json
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from sockd.toml_lines import locate

NASTY = '''\
# a comment with app.target = "no"
bind = [   # not = here
  "127.0.0.1:8000", # nor ] here
  '/run/a "quoted" [x].sock',
]
text = """
workers = 3
[unit]
escaped \\""" still "quoted" """""
literal = \'\'\'
key = 1
\'\'\'
[ app . env ]
"quoted key" = "a # b"
'single.dotted' = 'C:\\path'
"\\u0041" = 1979-05-27 07:32:00Z
[app]
target = "a:b" # trailing
inline = { a = 1, b.c = [ { d = "}" }, 2 ], "e" = {} }
[[workers]]
id = 1
[workers.deep]
x = 1
[[workers]]
id = 2
  [[workers.nested]]
  y = inf
'''


def test_every_notation() -> None:
    found = locate(NASTY, tomllib.loads(NASTY))
    expected = {
        ("bind",): 2,
        ("bind", 1): 4,
        ("text",): 6,
        ("literal",): 10,
        ("app", "env"): 13,
        ("app", "env", "quoted key"): 14,
        ("app", "env", "single.dotted"): 15,
        ("app", "env", "A"): 16,
        ("app", "target"): 18,
        ("app", "inline", "b", "c", 0, "d"): 19,
        ("workers",): 20,
        ("workers", 0, "deep", "x"): 23,
        ("workers", 1): 24,
        ("workers", 1, "id"): 25,
        ("workers", 1, "nested", 0, "y"): 27,
    }
    assert {path: found[path] for path in expected} == expected


def test_disagreement_gives_nothing() -> None:
    assert locate("a = 1\n", {"a": 1, "b": 2}) == {}
    assert locate("a = = 1\n", {"a": 1}) == {}


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6)
values = st.recursive(
    st.one_of(st.integers(-9, 99), st.booleans(), words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def written(value: object, gap: str) -> str:
    if isinstance(value, dict):
        pairs = (f"{quoted(key)} = {written(item, '')}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ",".join(gap + written(item, "") for item in value) + gap + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


@given(
    st.dictionaries(words, st.dictionaries(words, values, max_size=3), max_size=4),
    st.sampled_from(["", " # ] }\n", "\r\n\t"]),
    st.sampled_from(["", "\n", "# [x]\n\n"]),
)
def test_random_documents(document: dict[str, dict[str, object]], gap: str, between: str) -> None:
    text, expected = "", {}
    for table, pairs in document.items():
        text += between
        expected[(table,)] = text.count("\n") + 1
        text += f"[{quoted(table)}]\n"
        for key, value in pairs.items():
            text += between
            expected[(table, key)] = text.count("\n") + 1
            text += f"{quoted(key)} = {written(value, gap)}\n"
    found = locate(text, tomllib.loads(text))
    assert {path: found[path] for path in expected} == expected
