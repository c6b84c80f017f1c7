"""`aloe evaluate TASK MODELS`: numbers for teachers and students on labelled or unlabelled images."""

from __future__ import annotations

from typing import Annotated

import typer

from aloe.cli.common import Device, Json, choose_device, quiet_libraries, say, table


def evaluate(
    task: Annotated[str, typer.Argument(help="knn (needs --train) or cosine (needs --teacher).")],
    models: Annotated[list[str], typer.Argument(help="Teachers or students: folders or hub ids.")],
    test: Annotated[str, typer.Option(help="Test images; class-per-folder for knn.")],
    train: Annotated[str | None, typer.Option(help="Training images, class-per-folder.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The teacher to compare with.")] = None,
    k: Annotated[int, typer.Option(help="Neighbours.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    device: Device = None,
    json: Json = False,
) -> None:
    """Evaluate MODELS: k-NN accuracy on frozen pooled features, or cosine to a teacher per block."""
    quiet_libraries()
    from aloe.errors import UserError
    from aloe.probes.evaluate import cosine_rows, knn_rows

    where = choose_device(device)
    if task == "knn":
        if train is None:
            raise UserError("Task knn needs labelled training images: --train FOLDER with one folder per class.")
        rows = knn_rows(models, train, test, k=k, batch_size=batch_size, device=where, progress=not json)
    elif task == "cosine":
        if teacher is None:
            raise UserError("Task cosine needs the teacher to compare with: --teacher.")
        rows = cosine_rows(models, teacher, test, batch_size=batch_size, device=where)
    else:
        raise UserError(f"There is no task {task!r}; tasks: knn, cosine.")
    header = tuple(rows[0])
    say({"task": task, "rows": rows}, table([tuple(r.values()) for r in rows], header), json)
