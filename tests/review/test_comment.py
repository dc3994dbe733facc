"""The Markdown of a review: what it says first, that nothing in it is obeyed, and that it fits."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from pulls.review_samples import COMMIT, hostile, review_of, sample

from dem_build.errors import UsageError
from dem_build.review.comment import MOST_CHARACTERS, comment, verdict
from dem_build.review.document import (
    GateVerdict,
    KeyChange,
    Metric,
    RecipeReview,
    Review,
    ToldChange,
    Weakened,
    read_review,
)

ATTACKS = (
    "@octocat and @org/team, fixes #123, GH-7 o/r#9 https://github.com/o/r/issues/1 www.example.org",
    "<img src=x onerror=alert(1)> <script>x</script> </details> <!-- x",
    "![x](http://x/y.png) [y](javascript:z) **b** `c` | d | ~~e~~ $f$ \\ & &lt;",
    "```\n```` \n````````````````\n~~~\n# head\n- item\n> quote\n| a | b |\n|---|---|",
    "a\u202eb\u2066c\u200bd\u0000e\x1b[31mf\u2028g\ud800h",
    "::error file=x::y\n::set-output name=a::b",
    "x" * 5000,
)


def html(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


class Shown(HTMLParser):
    """What is shown of a page as text outside of code, and which elements there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.plain, self.all, self.tags, self._code = "", "", set(), 0
        self.attributes: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [name for name, _ in attrs]
        self._code += tag in ("code", "pre")

    def handle_endtag(self, tag):
        self._code -= tag in ("code", "pre")

    def handle_data(self, data):
        self.all += data
        self.plain += "" if self._code else data


OURS = {"h2", "h3", "p", "ul", "li", "strong", "code", "pre", "table", "thead", "tbody", "tr", "th", "td",
        "details", "summary", "sub", "blockquote"}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_that_a_stranger_wrote_is_markup_or_notifies_anybody(attack):
    page = comment(hostile(attack))
    shown = Shown(html(page))
    assert shown.tags <= OURS, shown.tags - OURS
    assert set(shown.attributes) <= {"class", "style"}
    assert not re.search(r"@\w|#\d|GH-\d|://|www\.", shown.plain), "left for GitHub to link"
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x1b\ud800-\udfff]", page)
    # All of ours that stands after it is still what it was.
    assert shown.all.rstrip().endswith("dem ci --base main")
    assert len(page) < MOST_CHARACTERS


def test_a_fence_is_longer_than_any_run_of_backticks_in_it():
    keys = tuple(KeyChange(action="x" + "`" * n, what="gone") for n in (3, 9, 4))
    page = comment(review_of(RecipeReview(path="a.toml", change=ToldChange.CHANGED, keys=keys)))
    assert "\n``````````text\n" in page
    assert html(page).count("<pre>") == 1


def test_the_verdict_and_the_two_commits_come_first_then_weakened_gates():
    page = comment(sample())
    places = [
        page.index(x)
        for x in ("## dem ci: ✗ a gate failed", COMMIT["base"][:12], "⚠ A gate asks for less", "### ✗")
    ]
    assert places == sorted(places)
    assert page.startswith("<!-- dem ci -->\n")


def test_what_has_not_changed_is_one_line():
    same = [RecipeReview(path=f"r{i}.toml", change=ToldChange.UNCHANGED) for i in range(3)]
    page = comment(review_of(*same))
    assert "✓ no recipe changed" in verdict(review_of(*same))
    assert [line for line in page.splitlines() if "r0.toml" in line and "r2.toml" in line]
    assert page.count("r1.toml") == 1


def test_a_review_that_passes_says_first_what_became_worse():
    def passing(**told) -> str:
        return verdict(review_of(RecipeReview(path="a.toml", change=ToldChange.CHANGED, **told)))

    worse, better = (Metric(on=f"loss:{w}", metric="loss", p=0.001, worth=w) for w in ("worse", "better"))
    gate = GateVerdict(metric="loss", task="loss:worse", passed=True)
    assert passing(metrics=(worse, worse, better), gates=(gate,)) == (
        "✓ no gate failed; of 3 metrics 2 worse, 1 better"
    )
    assert passing(metrics=(better,)) == (
        "✓ nothing failed, and no gate asks for anything; of 1 metric none worse, 1 better"
    )
    alone = Metric(on="loss:alone", metric="loss")
    assert passing(metrics=(better, alone), gates=(gate,)) == (
        "✓ no gate failed; of 1 metric none worse, 1 better; 1 more could not be compared"
    )
    weaker = Weakened(gate="loss on worse", how="loosened", was="at most 1", now="at most 2", passed=True)
    assert passing(gates=(gate,), weakened=(weaker,)) == (
        "✓ no gate failed; 1 gate asks for less than at the base; no metric was compared"
    )


def test_at_most_three_prompts_of_a_dataset():
    page = comment(sample(prompts=9))
    assert page.count("what is asked") == 3


@pytest.mark.parametrize("many", [1, 40, 500])
def test_it_always_fits_and_says_when_something_is_left_out(many):
    long = "@x #1 `|<" * 100
    recipes = [
        sample(path=f"{i}-{long[:200]}.toml", prompts=50, metrics=2000 // (many + 1), text=long).recipes[0]
        for i in range(many)
    ]
    review = sample().model_copy(update={"recipes": tuple(recipes)})
    page = comment(review)
    assert len(page) < MOST_CHARACTERS
    assert "metrics more" in page or "the whole is in the JSON" in page
    assert "⚠" in page
    assert Shown(html(page)).tags <= OURS


@pytest.mark.parametrize("word", ["@a`", "`#1", "://`|", "&`<", "`\\"])
def test_the_longest_document_that_is_read_fits_and_has_its_weakened_gates(word):
    """Every name of it grows most when it is escaped: whoever made it would have no comment written."""
    long = (word * 4000)[:4000]
    gate = Weakened(gate=long[:1000], how="loosened", was=long, now=long, passed=False, why=long)
    recipe = RecipeReview(
        path=long[:1000],
        was=long[:1000],
        change=ToldChange.CHANGED,
        status=3,
        weakened=(gate,) * 200,
        notes=(long,) * 50,
    )
    same = RecipeReview(path=long[:1000], was=long[:1000], change=ToldChange.UNCHANGED, notes=(long,) * 50)
    review = review_of(*(recipe,) * 250, *(same,) * 250)
    page = comment(
        review.model_copy(update={"notes": (long,) * 50, "command": long[:1000], "against": long[:1000]})
    )
    assert len(page) < MOST_CHARACTERS
    assert "200 gates ask for less" in page


def test_worse_metrics_are_kept_where_not_all_fit():
    metrics = [Metric(on=f"t{i}", metric="acc", before=0.5, after=0.5, worth="noise") for i in range(900)]
    metrics.append(Metric(on="the-bad-one", metric="acc", before=0.5, after=0.1, delta=-0.4, worth="worse"))
    page = comment(review_of(RecipeReview(path="a.toml", change=ToldChange.CHANGED, metrics=tuple(metrics))))
    assert "the-bad-one" in page.replace("\\", "")
    assert "metrics more" in page


def test_the_document_comes_back_as_it_was():
    review = sample()
    assert read_review(review.model_dump_json().encode(), "r.json") == review


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"\xff", b'{"dem_ci": 1}', b"[" * 100_000, b" " * 4_000_001,
        sample().model_dump_json().replace('"dem_ci":1', '"dem_ci":2').encode(),
        sample().model_dump_json().replace('"base":"' + COMMIT["base"], '"base":"main').encode(),
        sample().model_dump_json().replace('"status":3', '"status":99').encode(),
        sample().model_dump_json()[:-1].encode() + b',"more":1}',
        Review(against="x", base="a" * 40, head="b" * 40).model_dump_json().replace('"x"', "1e999").encode(),
    ],
    ids=range(12),
)  # fmt: skip
def test_a_document_of_a_stranger_is_read_strictly(data):
    with pytest.raises(UsageError, match=r"is no review|a review at most"):
        read_review(data, "r.json")


def test_gates_that_nobody_judged_are_not_called_passed():
    gate = GateVerdict(metric="loss", task="loss:a", passed=None, why="vectors are to be trained first")
    page = comment(review_of(RecipeReview(path="a.toml", change=ToldChange.CHANGED, status=4, gates=(gate,))))
    assert "| - | loss on a | vectors are to be trained first |" in page
