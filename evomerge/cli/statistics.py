"""`evomerge statistics`: what some operators need to know of a model on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress

from evomerge.cli._console import print_data, print_json, talk
from evomerge.cli._stopping import stopping


def statistics(
    model: Annotated[str, typer.Argument(help="A model folder or a hub name.", show_default=False)],
    kind: Annotated[
        Literal["fisher", "gram", "second_moments"],
        typer.Option(
            help="fisher, second_moments: of every weight; gram: of every linear layer's input."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
    text: Annotated[Path | None, typer.Option(help="Take examples from a text file.")] = None,
    fitness: Annotated[
        str | None, typer.Option(help="Or from a fitness: a preset, or a path to one.")
    ] = None,
    task: Annotated[
        list[str], typer.Option(help="Only of this task of the fitness; repeatable.")
    ] = [],  # noqa: B006
    examples: Annotated[int, typer.Option(help="How many to draw.")] = 256,
    max_length: Annotated[int, typer.Option(help="Tokens of an example, at most.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the draw, labels and batches.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(help="Examples in a batch, not for fisher. Default: 8.", show_default=False),
    ] = None,
    diagonal: Annotated[
        bool, typer.Option("--diagonal", help="Keep only the diagonals of Gram matrices.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print data as JSON.")] = False,
) -> None:
    """Collect what the operators fisher, regmean, ota and ffg need to know of a source."""
    from evomerge.statistics import Collection, collect

    what = Collection(
        model=model,
        kind=kind,
        text=text,
        fitness=fitness,
        tasks=tuple(task),
        examples=examples,
        max_length=max_length,
        seed=seed,
        device=device,
        batch_size=batch_size,
        diagonal=diagonal,
    )
    err = talk()
    with Progress(console=err) as progress:
        bar = progress.add_task("opening the model", total=None)

        def observe(done: int, total: int) -> None:
            stopping.raise_if_asked()
            progress.update(bar, description=kind, completed=done, total=total)

        collected = collect(what, out, observe)
    for note in collected.notes:
        err.print(f"note: {note}")
    if as_json:
        content = {
            "folder": str(out),
            "tensors": collected.tensors,
            "bytes": collected.nbytes,
            "notes": collected.notes,
            "manifest": collected.manifest.model_dump(exclude_none=True),
        }
        print_json(content)
    else:
        print_data(f"{out}\n")
