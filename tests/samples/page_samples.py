"""What the tests of `report.html` share: all that a report may be drawn from, and a strict reader of the page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from build_samples import Made, make_graph

from dem_build.actions.analysis.read import Compared, VectorAnalysis
from dem_build.actions.choose.read import Candidate, Choice
from dem_build.actions.ladder.read import Ladder, Rung
from dem_build.actions.ladder.read import Tested as OnTest  # pytest takes what is called Test… for a test
from dem_build.actions.match.read import MatchedModel, MatchedVector
from dem_build.actions.response.read import Loss, Point, Response
from dem_build.actions.sample.read import Exchange, SampledAnswer
from dem_build.actions.tune.read import Judged, Tuned, Tuning
from dem_build.recipe import Recipe
from dem_build.report.actions import READERS
from dem_build.report.baselines import Mixture, RecordedBaseline
from dem_build.report.gates import GateResult
from dem_build.report.inputs import ReportInputs
from dem_build.report.results import Results, collect

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What a strict reader makes of a page: its tags nested, its ids, what it would load, its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.loads, self.said = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._note(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._note(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)

    def _note(self, tag, attrs):
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} {name}"
            if name == "id":
                self.ids.append(value)
            if name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "href", "srcset", "data", "action", "xlink:href"):
                self.loads.append(value)

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())


def make_recipe(names=("math",), name="tiny", model="./base"):
    datasets = {n: {"path": f"{n}.jsonl", "omega": 0.5} for n in names}
    return Recipe.model_validate({"name": name, "base": {"model": model}, "datasets": datasets}).model_copy(
        update={"folder": Path("/project")}
    )


def curve(steps=30):
    return [[s + 1, 5 / (s + 1), 1e-4, 0.5] for s in range(steps)]


def make(names=("math",), *, made=None, graph=None, gates=(), recipe=None, **changed):
    """What a report of `names` is drawn from: as recorded, but for fields and read values that are `changed`."""
    graph, made = graph or make_graph(names), made or Made()
    records = made.build(graph)
    results = collect(graph, records, made.read)
    found = results.found | {r: changed.pop(r.key) for r in READERS if r.key in changed}
    values = {f: getattr(results, f) for f in results.__dataclass_fields__} | changed | {"found": found}
    return ReportInputs(recipe or make_recipe(names), graph, records, Results(**values), gates, "0.1.0")


def make_tuning(names, told=("ω of math ended on the upper bound, 1.5",), **changed):
    said = {
        "search": "gradient",
        "objective": "gain",
        "vectors": {n: Tuned(0.5, 0.4, 0.6, {"embeddings": 0.2, "0": 0.8, "final": 0.5}) for n in names},
        "judges": {n: Judged(3.0, 2.0, 1.5, 2 / 3, 32) for n in names}
        | {"talk": Judged(2.0, 2.1, None, None, 9)},
        "told": told,
        "passes": 4,
        "cost": 12.5,
        "slopes": {j: {v: 1.0 if j == v else -0.5 for v in names} for j in names},
        "scores": tuple(-0.1 * i for i in range(4)),
        "uniform": -0.2,
    }
    said |= changed
    return Tuning(**{"allowed": (True,) * len(said["scores"])} | said)


def make_analysis(names):
    square = {a: {b: 1.0 if a == b else 0.1 for b in names} for a in names}
    some = Compared(
        10, 5.0, dict.fromkeys(names, 1.0), dict.fromkeys(names, 0.2), square, square, 0.4, square, 0.5
    )
    parts = {n: {"0": {"q_proj": 0.5, "norms": 0.0}, "final": {"norms": 0.1}} for n in names}
    return VectorAnalysis(some, {"0": some}, parts)


def make_matching(names, **changed):
    vectors = {n: MatchedVector(1.0 + i, 32, 1200, 0.03125) for i, n in enumerate(names)}
    params = {"rows": 32.0, "ridge": 2.0, "prior": "fit"}
    return MatchedModel(**{"vectors": vectors, "params": params, "seconds": 21.5} | changed)


def make_choice(names, **changed):
    def candidate(gain, low=None, high=None):
        losses, gains = dict.fromkeys(names, 3.0 - gain), dict.fromkeys(names, gain)
        return Candidate(-gain, 0.95 - gain, low, high, keeps_limits=True, losses=losses, gains=gains)

    candidates = {
        "sum": candidate(0.75, 0.16, 0.24), "layers": candidate(0.84, 0.07, 0.15), "match": candidate(0.95, 0.0, 0.0)
    }  # fmt: skip
    said = {
        "chosen": "match",
        "objective": "gain",
        "candidates": candidates,
        "rows": dict.fromkeys(names, 48),
    }
    return Choice(**said | changed)


def make_response(names):
    losses = [{n: Loss(2.0 + w, 0.1, w, 0.05) for n in names} for w in (0.0, 0.25, 0.5)]
    points = tuple(Point(w, one) for w, one in zip((0.0, 0.5, 1.0), losses, strict=True))
    slopes = {j: dict.fromkeys(names, -0.5) for j in names}
    return Response(
        dict.fromkeys(names, 0.5), losses[0], dict.fromkeys(names, points), slopes, dict.fromkeys(names, 9)
    )


def make_ladder(names, floored=()):
    def tested(gain):
        losses, stderr = dict.fromkeys(names, 3.0 - 1.5 * gain), dict.fromkeys(names, 0.1)
        return OnTest({}, losses, stderr, dict.fromkeys(names, gain), gain)

    models = [tested(0.4 + i / 100) for i in range(len(names))]
    rungs = tuple(Rung((n,), one, one) for n, one in zip(names, models, strict=True))
    return Ladder(tested(0.0), dict.fromkeys(names, 1.5), rungs, dict.fromkeys(names, 9), floored)


def with_singles(names):
    """Test losses of base, composed, a baseline and every vector alone."""
    loss = {m: {f"loss:{n}": {"loss": v, "loss_stderr": 0.01} for n in names} for m, v in MODELS.items()}
    loss |= {
        s: {f"loss:{n}": {"loss": 1.5 if s == n else 3.2, "loss_stderr": 0.01} for n in names} for s in names
    }
    for model, value in (("base", 0.25), ("composed", 0.5)):
        loss[model]["arc_easy"] = {"acc": value, "acc_stderr": 0.02}
    return loss


MODELS = {"base": 3.0, "composed": 2.0, "mixing": 1.9}


def everything(names=("math",)):
    provenance = {
        f"vector:{n}": {
            "curve": curve(), "validation": {"curve": [[10, 2.0], [20, 1.0]]}, "seconds": 60.0,
            "device_seconds": 50.0, "tokens": {"seen": 12000, "trained": 9000}, "warnings": ["slow"],
            "device": "cpu", "finished": "2026-01-02T03:04:05Z", "versions": {"torch": "2.13"},
        }
        for n in names
    }  # fmt: skip
    gates = (GateResult("loss:math", "loss", 2.0, passed=False, why="at most 1"),)
    return make(
        names,
        made=Made(provenance=provenance | {f"data:{n}": {"seconds": 1.0} for n in names}),
        gates=gates,
        table=with_singles(names),
        choice=make_choice(names),
        matching=make_matching(names),
        tuning=make_tuning(names),
        analysis=make_analysis(names),
        response=make_response(names),
        ladder=make_ladder(names),
        tsne={n: ((0.0, i), (1.0, -2.0)) for i, n in enumerate(names)},
        baselines=make_baselines(names),
        samples=make_samples(names),
    )


def make_samples(names, count=1, **changed):
    said = {"asked": "2 + 2?", "reference": "4"} | changed
    answers = {"base": SampledAnswer("dunno", ended=False), "composed": SampledAnswer(" 4\n", ended=True)}
    return tuple(Exchange(n, said["asked"], said["reference"], answers) for n in names for _ in range(count))


def make_baselines(names):
    parts = dict.fromkeys(names, 1 / len(names))
    mixture = Mixture(12100, 12100, 12034, 12000, parts, dict.fromkeys(names, 1.5))
    mixing = RecordedBaseline(
        "mixing", {"mixing": 0.8}, {"mixing": (0.7, 0.9)}, mixture, ("its <b>scale</b>",)
    )
    return {"mixing": mixing, "even": RecordedBaseline("uniform", parts)}
