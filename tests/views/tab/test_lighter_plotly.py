"""The chart library as the browser gets it: what is written otherwise, and what stays."""

from __future__ import annotations

import gzip
import re
import threading

import pytest

from lightning_adapt.views.tab import static_files
from lightning_adapt.views.tab.lighter_plotly import lighter

START = b"(function(r, f) {f()} (self ? self : this, () => {\n"
HEAT = b'aa=W((e,t)=>{"use strict";t.exports={moduleType:"trace",name:"heatmap",plot:p()}});'
HANDED_ON = b'b$=W((e,t)=>{"use strict";t.exports=aa()});'
BAR = b'c=W((e,t)=>{t.exports={moduleType:"trace",name:"bar"}});'


def script(*parts: bytes) -> bytes:
    return START + b"".join(parts) + b"return X;\n}));\n"


def test_the_installed_library_loses_the_start_of_other_charts_and_is_compiled_as_it_comes():
    before = static_files.plotly_js().read_bytes()
    after = lighter(before)
    assert len(after) < len(before) < len(after) + 1000
    (listed,) = re.findall(rb"\.register\(\[((?:[\w$]+\(\),?)+)\]\)", after)
    assert listed.count(b"()") == 1
    # All code is still there, the heat map's too.
    assert after.count(b"moduleType:") == before.count(b"moduleType:") > 40
    assert b": this, (() => {" in after
    assert after.endswith(b"})));")


@pytest.mark.parametrize("parts", [(HEAT, HANDED_ON, BAR), (BAR, HEAT, HANDED_ON)])
def test_only_the_heat_map_is_registered(parts: tuple[bytes, ...]):
    given = script(*parts, b"R.register([c(),b$(),d()]);")
    expected = given.replace(b"() => {\n", b"(() => {\n").replace(b"[c(),b$(),d()]", b"[b$()]")
    assert lighter(given) == expected.replace(b"}));\n", b"})));")
    assert b"register([aa()])" in lighter(script(HEAT, b"R.register([c(),aa()]);"))


@pytest.mark.parametrize(
    "kinds",
    [
        HEAT + HANDED_ON,
        HANDED_ON + b"R.register([c(),b$()]);",
        HEAT + b"R.register([c(),d()]);",
        HEAT + HANDED_ON + b"R.register([c(),b$()]);R.register([c(),b$()]);",
        HEAT + HANDED_ON + b"R.register([c(),b$(1)]);",
    ],
    ids=["no list", "no heat map", "not in the list", "two lists", "another form"],
)
def test_what_is_written_otherwise_stays_as_it_is(kinds: bytes):
    assert lighter(script(kinds)).count(kinds) == 1


@pytest.mark.parametrize("text", [b"", b"x = 1", script().replace(b"() =>", b"function"), 2 * script()])
def test_a_library_of_another_shape_stays_as_it_is(text: bytes):
    assert lighter(text) == text


def test_files_are_compressed_before_they_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    content = static_files.content
    monkeypatch.setattr(static_files, "content", lambda name: seen.append(name) or content(name))
    static_files._compressed.cache_clear()
    static_files.prepare.cache_clear()
    static_files.prepare()
    static_files.prepare()
    for thread in threading.enumerate():
        if thread.name == "lightning-adapt-files":
            thread.join(60)
    assert sorted(seen) == sorted(static_files.NAMES)
    assert gzip.decompress(static_files.compressed(static_files.PLOTLY)) == content(static_files.PLOTLY)
    assert len(seen) == len(static_files.NAMES)


def test_without_the_library_the_other_files_are_there_all_the_same(monkeypatch: pytest.MonkeyPatch):
    version = static_files.version()
    monkeypatch.setattr(static_files, "find_spec", lambda name: None)
    static_files.plotly_js.cache_clear()
    static_files._prepare()
    assert static_files.version() != version
    assert b"render" in gzip.decompress(static_files.compressed("index.js"))
    static_files.plotly_js.cache_clear()
