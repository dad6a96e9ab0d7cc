"""Commands on recipes and models: export, build, evaluate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evomerge.cli._console import console, print_data, print_json, talk

if TYPE_CHECKING:
    from evomerge.analysis.run import Run
    from evomerge.recipes.scored import Scored

Json = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]


Weights = Annotated[
    str | None,
    typer.Option(
        help="The point of the front with the best sum of the objectives times these, each on its "
        "own scale, e.g. maths=2,japanese=1.",
        show_default=False,
    ),
]
At = Annotated[
    list[str],
    typer.Option(
        help="The best of all models of which this holds, e.g. 'maths>=0.6'; repeatable.",
        show_default=False,
    ),
]


def export(
    folder: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    candidate: Annotated[
        str | None,
        typer.Option(help="Its number; by default the best by the fitness.", show_default=False),
    ] = None,
    weights: Weights = None,
    at: At = [],  # noqa: B006
    format_: Annotated[
        Literal["evomerge", "mergekit"], typer.Option("--format", help="Which YAML to write.")
    ] = "evomerge",
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file; stdout by default.")
    ] = None,
) -> None:
    """Write a candidate's recipe as YAML."""
    from evomerge.analysis.run import Run
    from evomerge.files import write_text

    run = Run.open(folder)
    text = run.export(_chosen(run, candidate, weights, at), format_)
    if out is None:
        print_data(text)
    else:
        write_text(out, text)
        talk().print(f"wrote {out}")


def build(
    recipe: Annotated[
        Path,
        typer.Argument(help="A recipe YAML, evomerge's or mergekit's, or a run's folder."),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    candidate: Annotated[
        str | None, typer.Option(help="Of a run: its number.", show_default=False)
    ] = None,
    weights: Weights = None,
    at: At = [],  # noqa: B006
) -> None:
    """Merge a recipe, or a run's candidate, into a Hugging Face folder."""
    from evomerge.analysis.run import Run
    from evomerge.weights.build import build as build_recipe

    given: Scored | Path = recipe
    if recipe.is_dir():
        run = Run.open(recipe)
        given = run.scored(_chosen(run, candidate, weights, at))
    elif candidate is not None or weights or at:
        raise typer.BadParameter("--candidate, --weights and --at choose from a run, not a recipe")
    made = build_recipe(given, out, tell=_note)
    print_data(f"{made}\n")


def convert(
    model: Annotated[
        str, typer.Argument(help="A model or adapter: a folder or a hub name.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
) -> None:
    """Make safetensors of a model's .bin files; nothing in them is run."""
    from evomerge.weights.output.conversion import convert as convert_model

    typer.echo(str(convert_model(model, out)))


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A model folder, a hub name or a recipe YAML.", show_default=False)
    ],
    fitness: Annotated[str, typer.Option(help="A fitness preset, or a path to one.")],
    split: Annotated[
        Literal["search", "held_out"], typer.Option(help="Which of its examples.")
    ] = "search",
    engine: Annotated[
        str, typer.Option(help="An engine's name, or its keys: '{name: transformers, ...}'.")
    ] = "transformers",
    as_json: Json = False,
) -> None:
    """Score a model or a recipe on a fitness."""
    from evomerge.analysis.evaluate import evaluate as evaluate_model

    score = evaluate_model(model, fitness, split=split, engine=engine, tell=_note)
    if as_json:
        print_json({**asdict(score), "split": split})
        return
    result = console()
    for name, value in score.tasks.items():
        result.print(f"{name:<24} {value:.4f}")
    result.print(
        f"{'fitness':<24} {score.value:.4f} ± {score.half_width:.4f} "
        f"({score.examples} {split} examples)"
    )


def _chosen(run: Run, candidate: str | None, weights: str | None, at: list[str]) -> int | str:
    """Which candidate of a run is meant."""
    if candidate is not None and (weights or at):
        raise typer.BadParameter("--candidate names one: leave out --weights and --at")
    if not (weights or at):
        return candidate or "best"
    from evomerge.analysis.front import parse_weights  # numpy, which a plain export does not need

    number = run.choose(parse_weights(weights) if weights else {}, at)
    talk().print(f"candidate {number}")
    return number


def _note(note: str) -> None:
    talk().print(f"note: {note}")
