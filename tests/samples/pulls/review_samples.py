"""Reviews of pull requests, made by hand to render."""

from __future__ import annotations

from dem_build.review.document import (
    AskedPrompt,
    GateVerdict,
    KeyChange,
    Metric,
    Omega,
    RecipeReview,
    Review,
    ToldChange,
    ToldDue,
    ToldMistake,
    ToldReason,
    Trouble,
    Weakened,
    shown,
)

COMMIT = {"base": "1a" * 20, "head": "2b" * 20}


def review_of(*recipes: RecipeReview) -> Review:
    return Review(
        against="main",
        base=COMMIT["base"],
        head=COMMIT["head"],
        command="dem ci --base main",
        recipes=recipes,
    )


def sample(
    path: str = "recipes/a.toml",
    prompts: int = 2,
    metrics: int = 2,
    text: str = "what is asked",
    status: int = 3,
) -> Review:
    """A recipe with something of everything."""
    recipe = RecipeReview(
        path=path[:1000],
        was="recipes/old.toml",
        change=ToldChange.CHANGED,
        status=status,
        weakened=(
            Weakened(gate="acc on words", how="loosened", was="at least 0.3", now="at least 0.2", line=9, value=0.25,
                     passed=False, why="at least 0.3"),
        ),
        gates=(GateVerdict(metric="acc", task="words", line=9, value=0.25, passed=True, why="at least 0.2"),),
        metrics=tuple(
            Metric(on=f"loss:d{i}", metric="loss", before=2.5, after=2.25, delta=-0.25, stderr=0.02, p=0.0004,
                   common=64, only_before=2, only_after=1, test="paired", worth="better")
            for i in range(metrics)
        ),
        omega=(Omega(vector="chat", before=0.5, after=0.7), Omega(vector="new", after=0.2)),
        reasons=(
            ToldReason(text="datasets.chat has 214 rows more", changed=("data:chat",), follow=("vector:chat", "model")),
        ),
        actions=(
            ToldDue(action="vector:chat", trains=True, state="due", seconds=3700.0, disk=3_000_000_000),
            ToldDue(action="loss:composed:chat", state="ran", seconds=2.0, device="cpu"),
            ToldDue(action="eval:composed:words", state="failed", error="no such file"),
        ),
        prompts=tuple(AskedPrompt(dataset="chat", asked=text[:4000], before="before", after="after", reference="data")
                      for _ in range(prompts)),
        keys=(KeyChange(action="vector:chat", before="a" * 64, after="b" * 64, what="changed"),
              KeyChange(action="model", before="c" * 64, what="changed")),
        model_before="d" * 64,
        cost="12s on cpu",
        recorded=(7, 9),
    )  # fmt: skip
    return review_of(recipe)


def hostile(text: str) -> Review:
    """A recipe all of whose words are a stranger's."""
    text = shown(text)  # as all that reaches a review
    name, prose = text[:900], text[:3900]
    recipe = RecipeReview(
        path=name,
        was=name,
        change=ToldChange.CHANGED,
        status=1,
        trouble=Trouble(what=prose, where=name, hint=prose),
        weakened=(Weakened(gate=name, how="removed", was=prose, now=prose, passed=False, why=prose),),
        gates=(GateVerdict(metric=name, task=name, passed=False, why=prose),),
        metrics=(Metric(on=name, metric=name, before=1.0, test=name, common=1),),
        omega=(Omega(vector=name, before=0.1),),
        reasons=(ToldReason(text=prose, changed=(name,), follow=(name,)),),
        actions=(
            ToldDue(action=name, trains=True, state="due"),
            ToldDue(action=name, state="failed", error=prose),
            ToldDue(action=name, state="ran", seconds=1.0, device=name),
        ),
        prompts=(AskedPrompt(dataset=name, asked=prose, before=prose, after=prose, reference=prose),),
        keys=(KeyChange(action=name, before="a" * 64, what="gone"),),
        cost=prose,
        no_baseline=prose,
        notes=(prose,),
    )
    broken = RecipeReview(
        path=name,
        change=ToldChange.BROKEN,
        status=2,
        trouble=Trouble(
            what=prose, mistakes=(ToldMistake(file=name, line=3, key=name, what=prose, hint=prose),)
        ),
    )
    same = RecipeReview(path=name, was=name, change=ToldChange.UNCHANGED)
    review = review_of(recipe, broken, same)
    return review.model_copy(update={"against": name, "notes": (prose,)})
