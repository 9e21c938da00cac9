"""The error page in a real Chromium: filters, keys, sound, the policy, and two widths."""

import asyncio
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from misheard import OPTIONS, predictions
from test_page_recordings import chirp, sources

from kmed_bench.core.predictions import Prediction
from kmed_bench.report.error_clips import Beside
from kmed_bench.report.error_page import write_error_analysis
from kmed_bench.report.recordings import RATE_HZ
from kmed_bench.scoring.analysis import KINDS

pytestmark = pytest.mark.slow
LINES = [
    # speaker, reference, hypothesis, the second system's hypothesis
    ("s1", "(3)/(삼) 일째 배가 아파요.", "이일째 배가 아바요", "삼일째 배가 아파요"),
    ("s1", "두통약 주세요.", "두부약 주세요", "두부약 주세요 네"),
    ("s2", "두통이 있어요", "두통이 있어요", "두통이 있어요"),
    ("s2", "혈압이 높아요", "혈압 노파요", "혈압 노파요"),
    ("s3", "어지러워요", "시청해 주셔서 감사합니다", "어지러워요"),
    ("s3", ".", "무엇이든", ""),
    ("s4", "기침이 나요", "기침이 아주 나요", "기침이 나요"),
]
GROUPS = [("Female", "20s"), ("Female", "over70"), ("Male", "20s"), ("Male", ""), ("Male", "over70"), ("Female", "20s")]


@dataclasses.dataclass
class Opened:
    """A page in a browser, called from tests that are not asynchronous."""

    runner: asyncio.Runner
    page: Any
    file: Path
    recorded: dict[str, np.ndarray]

    def show(self, width: int = 1280, height: int = 900) -> None:
        """Load the page again, all clips shown."""
        self.runner.run(self.page.open(self.file.as_uri(), width, height))
        self.runner.run(self.page.until("document.getElementById('count')?.textContent.endsWith('shown')"))

    def ask(self, script: str) -> Any:
        return self.runner.run(self.page.evaluate(script))

    def press(self, key: str, code: str = "") -> None:
        """Press and release a key; a letter's code is that of its place on a Latin keyboard."""
        code = code or (f"Key{key.upper()}" if len(key) == 1 else key)
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": code, **(text if kind == "keyDown" else {})}
            self.runner.run(self.page.send("Input.dispatchKeyEvent", **event))

    def choose(self, name: str, value: str) -> None:
        """Choose an entry of a filter as its select does."""
        self.ask(
            f"(() => {{ const list = document.querySelector('select[name={name}]'); list.value = '{value}';"
            "list.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )

    def shown(self) -> list[str]:
        return self.ask(
            "[...document.querySelectorAll('.clip')].filter(c => c.checkVisibility()).map(c => c.dataset.id)"
        )

    def current(self) -> str | None:
        return self.ask("document.activeElement.dataset.id ?? null")


def clips_of(column: int) -> list[Prediction]:
    made = predictions([(line[0], line[1], line[column]) for line in LINES])
    groups = [*GROUPS, GROUPS[0]]
    return [dataclasses.replace(clip, gender=g, age=a) for clip, (g, a) in zip(made, groups, strict=True)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("page") / "errors"
    recorded = {f"u{place}": chirp(6.0 if place in (4, 5) else 0.7, place) for place in range(len(LINES))}
    beside = Beside(predictions=clips_of(3), name="other")
    file = write_error_analysis(
        folder, clips_of(2), OPTIONS, name="base", beside=beside, read_clip=recorded.__getitem__
    )
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
        from browser import find_browser, open_browser

        if find_browser() is None:
            pytest.skip("no Chromium is installed that starts here")
        browser = open_browser()
        page = runner.run(browser.__aenter__())
        try:
            yield Opened(runner, page, file, recorded)
        finally:
            runner.run(browser.__aexit__(None, None, None))
            sys.modules.pop("browser")


@pytest.fixture(scope="module")
def table(opened: Opened) -> pd.DataFrame:
    """The clips of the CSV file, and the clip without speech, which is in a table of its own."""
    clips, silent = (
        pd.read_csv(opened.file.parent / f"{name}.csv", keep_default_na=False, encoding="utf-8-sig")
        for name in ("clips", "inventions_in_silence")
    )
    silent = silent.assign(kinds="hallucination", terms="", missed_terms="", code_switching="none")
    return pd.concat([clips, silent], ignore_index=True).set_index("utterance_id")


def test_the_worst_come_first(opened: Opened) -> None:
    opened.show()
    assert opened.shown() == ["u4", "u5", "u3", "u6", "u0", "u1", "u2"]  # 11, 4, 3, 2 of 5, 2 of 9, 1, 0 errors


def test_each_filter_shows_exactly_its_clips(opened: Opened, table: pd.DataFrame) -> None:
    opened.show()
    offered = opened.ask(
        "Object.fromEntries([...document.querySelectorAll('#filters select')].map(list => [list.name,"
        "[...list.options].slice(1).map(o => [o.parentElement.label ?? '', o.label.replace(/ \\(\\d+\\)$/, ''),"
        "o.value, Number(o.label.match(/\\((\\d+)\\)$/)[1])])]))"
    )
    assert set(offered) == {"kind", "term", "gender", "age", "versus"}  # the clips do not differ in the other fields
    kinds = dict(zip([label for _, label, *_ in offered["kind"]], [*KINDS, "none"], strict=True))
    versus = {"u0": "fewer errors", "u1": "more errors", "u2": "as many errors", "u3": "as many errors"}
    versus |= dict.fromkeys(("u4", "u5", "u6"), "fewer errors")
    expected = {
        "kind": lambda _, label: [i for i, k in table["kinds"].items() if kinds[label] in (k.split() or ["none"])],
        "term": lambda heading, label: [
            i for i, t in table["missed_terms" if heading == "Missed" else "terms"].items() if label in t.split("; ")
        ],
        "gender": lambda _, label: [*table.index[table["gender"] == label]],
        "age": lambda _, label: [*table.index[table["age"].replace("", "N/A") == label]],
        "versus": lambda _, label: [i for i, found in versus.items() if found == label],
    }
    for name, choices in offered.items():
        for heading, label, value, n in choices:
            opened.choose(name, value)
            found = opened.shown()
            assert sorted(found) == sorted(expected[name](heading, label)), (name, heading, label)
            assert len(found) == n > 0
            assert opened.ask("document.getElementById('count').textContent") == f"{n} of 7 clips shown"
        opened.choose(name, "")
        assert len(opened.shown()) == 7


def test_filters_hold_together(opened: Opened, table: pd.DataFrame) -> None:
    opened.show()
    values = opened.ask("Object.fromEntries([...document.querySelectorAll('option')].map(o => [o.label, o.value]))")
    substituted = next(value for label, value in values.items() if label.startswith("Substitution"))
    female = next(value for label, value in values.items() if label.startswith("Female"))
    opened.choose("kind", substituted)
    opened.choose("gender", female)
    wanted = table["kinds"].str.contains("substitution") & (table["gender"] == "Female")
    assert sorted(opened.shown()) == sorted(table.index[wanted]) == ["u0", "u1"]
    opened.press("r")
    assert len(opened.shown()) == 7


def test_keys_go_through_the_clips_that_are_shown(opened: Opened) -> None:
    opened.show()
    opened.press("j")
    assert opened.current() == "u4"
    opened.press("ㅓ", "KeyJ")  # the same key under a Hangul keyboard
    assert opened.current() == "u5"
    opened.press("k")
    opened.press("k")
    assert opened.current() == "u4"  # there is none before
    opened.press("f")
    assert opened.ask("document.activeElement.name") == "kind"
    opened.press("j")  # in a list, letters choose
    assert opened.ask("document.activeElement.name") == "kind"
    opened.choose(
        "gender", opened.ask("[...document.querySelectorAll('option')].find(o => /^Female/.test(o.label)).value")
    )
    opened.press("Escape")
    assert (opened.current(), opened.shown()) == ("u5", ["u5", "u6", "u0", "u1"])
    for _ in range(5):
        opened.press("j")
    assert opened.current() == "u1"
    assert opened.ask("[...document.querySelectorAll('[aria-current]')].map(c => c.dataset.id)") == ["u1"]


def test_a_key_plays_one_clip_at_a_time(opened: Opened) -> None:
    opened.show()
    playing = "[...document.querySelectorAll('audio')].filter(a => !a.paused).map(a => a.closest('.clip').dataset.id)"
    opened.press("j")
    opened.press("p")
    opened.runner.run(opened.page.until("document.querySelector('.clip audio').currentTime > 0.05"))
    assert opened.ask(playing) == ["u4"]
    assert opened.ask("document.querySelector('.clip .play').textContent") == "Pause"
    assert opened.ask("document.querySelector('.clip audio').duration") == pytest.approx(6.0, abs=0.01)
    opened.press("j")
    opened.press("p")
    opened.runner.run(opened.page.until(f"{playing}.join() === 'u5'"))
    opened.press("p")
    opened.runner.run(opened.page.until(f"{playing}.length === 0"))
    opened.runner.run(opened.page.until("[...document.querySelectorAll('.play')].every(b => b.textContent === 'Play')"))


def test_the_browser_decodes_what_was_recorded(opened: Opened) -> None:
    opened.show()
    heard = opened.ask(
        "Promise.all([...document.querySelectorAll('.clip')].map(async (clip) => {"
        "const bytes = Uint8Array.from(atob(clip.querySelector('audio').src.split(',')[1]), c => c.charCodeAt(0));"
        f"const sound = await new OfflineAudioContext(1, 1, {RATE_HZ}).decodeAudioData(bytes.buffer);"
        "return [clip.dataset.id, [...sound.getChannelData(0)]]; }))"
    )
    assert dict(heard).keys() == opened.recorded.keys() == sources(opened.file).keys()
    for name, samples in heard:
        recorded = opened.recorded[name]
        assert len(samples) == pytest.approx(len(recorded), abs=0.01 * RATE_HZ)
        n_common = min(len(samples), len(recorded))
        lags = range(-160, 161)  # a decoder may begin some milliseconds later
        middle = np.asarray(samples)[200 : n_common - 200]
        best = max(np.corrcoef(middle, recorded[200 + lag : n_common - 200 + lag])[0, 1] for lag in lags)
        assert best > 0.97, name


def test_the_policy_lets_the_sound_through_and_nothing_else(opened: Opened) -> None:
    opened.show()
    blocked = opened.ask(
        """new Promise((done) => {
          const found = new Set();
          document.addEventListener('securitypolicyviolation', (event) => found.add(event.effectiveDirective));
          const add = (tag, values) => document.body.append(Object.assign(document.createElement(tag), values));
          add('script', { textContent: 'window.ran = true' });
          add('script', { src: 'data:text/javascript,window.ran=true' });
          add('img', { src: 'http://127.0.0.1:9/a.png' });
          add('audio', { src: 'http://127.0.0.1:9/a.ogg', preload: 'auto' });
          add('iframe', { src: 'data:text/html,x' });
          add('link', { rel: 'stylesheet', href: 'http://127.0.0.1:9/a.css' });
          fetch('http://127.0.0.1:9/').catch(() => {});
          document.querySelector('.clip audio').load();
          setTimeout(() => done([[...found].sort(), window.ran ?? false]), 300);
        })"""
    )
    directives = ["connect-src", "frame-src", "img-src", "media-src", "script-src-elem", "style-src-elem"]
    assert blocked == [directives, False]
    opened.press("p")
    opened.runner.run(opened.page.until("document.querySelector('.clip audio').currentTime > 0"))


def test_what_cannot_be_played_is_said(opened: Opened) -> None:
    opened.show()
    opened.ask("document.querySelector('.clip audio').src = 'data:audio/ogg;base64,AAAA'")
    opened.press("p")
    opened.runner.run(opened.page.until("document.querySelector('.clip .sound').textContent.includes('can’t play')"))


@pytest.mark.parametrize("width", [430, 1280])
def test_it_fits_the_window(width: int, opened: Opened) -> None:
    opened.show(width)
    opened.press("j")
    opened.press("p")
    assert opened.ask("document.documentElement.scrollWidth") == width
    outside = (
        "[...document.querySelectorAll('main, button, select, audio[controls], .word')].filter(part => {"
        f"const box = part.getBoundingClientRect(); return box.right > {width} || box.left < 0; }}).length"
    )
    assert opened.ask(outside) == 0
    assert opened.ask("Math.min(...[...document.querySelectorAll('button, select')].map(p => p.offsetHeight))") >= 44


def test_both_systems_stand_below_the_words(opened: Opened) -> None:
    opened.show()
    rows = opened.ask(
        "[...document.querySelectorAll('[data-id=u0] .word')]"
        ".map(word => [...word.children].map(part => part.textContent))"
    )
    assert rows == [
        ["reference", "base", "other"],
        ["삼", "이", "삼"],
        ["일째", "일째", "일째"],
        ["배가", "배가", "배가"],
        ["아파요", "아바요", "아파요"],
    ]
    assert opened.ask("[...document.querySelectorAll('[data-id=u0] mark')].map(part => part.textContent)") == [
        "이",
        "바",
    ]
