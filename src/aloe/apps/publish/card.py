"""The model card: front matter for the hub and text for people, from what is known of a student; nothing is made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

import aloe
from aloe.apps.publish.licences import Licence, licence_of
from aloe.apps.publish.names import is_hub_id, public_name, public_words
from aloe.apps.publish.numbers import Numbers
from aloe.apps.publish.student import Published
from aloe.core.names import first_few
from aloe.data.benchmarks import BENCHMARKS
from aloe.draw.tables import Block, Row, Table, printable
from aloe.models.stages import STAGES, standing

SUMMARIES = {
    "aligned": "A B-cos Vision Transformer, **aligned to the features of {0} on unlabelled images**: made to stand in for its"
    " teacher and to explain itself.",
    "finetuned": "A B-cos Vision Transformer, aligned to the features of {0}, then **fine-tuned on labelled images**, that"
    " explains itself.",
    "b-cosified": "A B-cos Vision Transformer, **converted from {0} and fine-tuned on labelled images (B-cosified), not"
    " aligned to its features**, that explains itself.",
    "converted": "A B-cos Vision Transformer, **only converted from {0}: neither aligned nor fine-tuned. Its features are not"
    " those of its teacher; it is a starting point for training, not a model to use.**",
    "unknown": "A B-cos Vision Transformer made from {0}. **Whether it was trained after its conversion is not recorded.**",
}
_RATES = {
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "max_grad_norm": "gradients of norm at most",
}


@dataclass(frozen=True)
class Origin:
    """What a publisher says of a student: the data's name and terms, its licence and the one it inherits."""

    data_name: str | None
    data_licence: str | None
    inherited: Licence | None
    licence: Licence


def _summary(student: Published) -> str:
    words = SUMMARIES[student.stage].format(_code(student.teacher.get("name") or "an unnamed teacher"))
    source = student.teacher.get("source")
    if source and not student.run:
        words += (
            f" The weights are those of the checkpoint {_code(source)} that the authors of the paper published, translated to"
            " another format and otherwise unchanged; their licence holds."
        )
    return words


def write_card(student: Published, repo_id: str, origin: Origin, numbers: Numbers, examples: Sequence[str] = ()) -> str:
    """The text of README.md; `examples` are pictures in the same folder."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = resources.files("aloe.apps.publish").joinpath("card.md.j2").read_text(encoding="utf-8")
    config: Any = student.model.config
    body = environment.from_string(template).render(
        title=repo_id.split("/")[1],
        repo_id=repo_id,
        version=aloe.__version__,
        summary=_summary(student),
        code=example_code(student, repo_id),
        text_tower=_has_text_tower(student),
        resolution=config.resolution,
        examples=examples,
        classes=student.classes,
        origin=_facts("Origin", _origin(student, origin)),
        training=_facts("Settings of the last run", _training(student)) if student.run else "",
        numbers=numbers,
        limits=_limits(student),
        licences=_facts("Licences", _licences(student, origin)),
    )
    return f"---\n{_front_matter(student, repo_id, origin, numbers)}\n---\n\n{body}"


def example_code(student: Published, repo_id: str) -> str:
    """How to load and explain."""
    config: Any = student.model.config
    lines = [
        "import aloe",
        "from PIL import Image",
        f'model = aloe.load("{repo_id}")',
        f'explanation = aloe.explain(model, Image.open("photo.jpg"))  # at {config.resolution} pixels',
        'explanation.to_pil()[0].save("explanation.png")',
    ]
    if student.classes:
        lines.append("print(model.config.id2label[int(explanation.prediction[0])])")
    return "\n".join(lines)


def _has_text_tower(student: Published) -> bool:
    """Whether `aloe explain --text` finds the teacher's text tower by itself."""
    teacher = student.teacher
    return str(teacher.get("family")).startswith("SigLIP") and is_hub_id(str(teacher.get("name")))


def _front_matter(student: Published, repo_id: str, origin: Origin, numbers: Numbers) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base, data = next(iter(student.made_from), None), _dataset_id(origin.data_name)
    more: dict[str, Any] = {"base_model_relation": "finetune"} if base else {}
    card = ModelCardData(
        **origin.licence.front_matter,  # type: ignore[arg-type]
        library_name="aloe-vit",
        pipeline_tag="image-classification" if student.classes else "image-feature-extraction",
        base_model=base,
        datasets=[data] if data else None,
        tags=["aloe", "b-cos", "explainability", "interpretability", "vision-transformer", f"aloe-{student.stage}"],
        model_name=repo_id.split("/")[1] if numbers.evaluations else None,
        eval_results=[EvalResult(**evaluation) for evaluation in numbers.evaluations] or None,
        **more,
    )
    return card.to_yaml()


def _origin(student: Published, origin: Origin) -> list[tuple[str, str]]:
    config: Any = student.model.config
    teacher = student.teacher
    shape = f"{config.num_hidden_layers} blocks of width {config.hidden_size}, patch {config.patch_size}"
    count = sum(p.numel() for p in student.model.parameters())
    rows = [
        ("Teacher", str(teacher.get("name") or "not recorded")),
        *([("Translated from", str(teacher["source"]))] if teacher.get("source") else []),
        ("Family", str(teacher.get("family", "not recorded"))),
        ("What it is", standing(teacher)),
        ("Stage", STAGES[student.stage].words if student.stage in STAGES else "not recorded"),
        ("Architecture", f"{shape}; {config.stem} stem; B = {config.b:g}; {count:,} parameters"),
        ("Resolution", f"{config.resolution} pixels"),
        ("Data", public_words(origin.data_name) if origin.data_name else "not named by the publisher"),
    ]
    if student.run.get("image_count"):
        rows.append(("Images, held-out ones included", f"{int(student.run['image_count']):,}"))
    if student.run.get("data_fingerprint"):
        rows.append(("Fingerprint of the data", str(student.run["data_fingerprint"])[:16]))
    if student.classes:
        rows.append(("Classes", f"{len(student.classes)}: {first_few(student.classes, 12, ' and {} more')}"))
    return rows


def _training(student: Published) -> list[tuple[str, str]]:
    run = student.run
    batch = [int(run.get(key) or 1) for key in ("batch_size", "gradient_accumulation", "processes")]
    images = batch[0] * batch[1] * batch[2]
    if run.get("task") == "finetune":
        goal = f"labels, {run.get('loss')} loss, frozen: {run.get('freeze')}"
        rows = [
            ("Learned from", goal),
            ("Started from", f"{public_name(str(run.get('model')))}, {run.get('start_stage')}"),
        ]
    else:
        blocks = ", ".join(map(str, run.get("blocks") or ()))
        where = f"residual stream after blocks {blocks}" + " and pooled output" * bool(run.get("pooled"))
        rows = [("Learned from", f"the teacher's features, no labels: {run.get('objective')}, {where}")]
        if run.get("stem_steps"):
            rows.append(("Stem", f"warmed up alone for {run['stem_steps']:,} steps"))
        if run.get("block_steps"):
            rows.append(("Blocks", f"each alone, from the teacher's states, for {run['block_steps']:,} steps"))
        rows += [("Started from", "an earlier student")] if run.get("student_fingerprint") else []
    if run.get("steps"):
        rows.append(("Steps", f"{run['steps']:,} of {images} images, {run['steps'] * images:,} drawn in all"))
    optimiser = {"muon": "Muon for the blocks' matrices, AdamW for the rest"}.get(str(run.get("optimizer")), "AdamW")
    rates = [f"{words} {_number(run.get(key))}" for key, words in _RATES.items() if key in run]
    crops = f"random, {' to '.join(map(_number, run.get('crop_scale') or []))} of the area"
    rows += [
        ("Optimiser", ", ".join([optimiser, *rates])),
        ("Schedule", f"{run.get('schedule')}, warm-up {_number(run.get('warmup'))} of the steps"),
        ("Crops", crops + ", mirrored at random" * bool(run.get("flip"))),
        ("Precision", str(run.get("precision"))),
        ("Seed", str(run.get("seed"))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items())),
    ]
    if student.held_out:
        numbers = (
            f"{name.replace('_', ' ')} {value:.4f}" for name, value in student.held_out.items() if _is_number(value)
        )
        rows.append(("On held-out images", ", ".join(numbers)))
    return rows


def _limits(student: Published) -> list[str]:
    config: Any = student.model.config
    limits = [
        f"It was made for {config.resolution} x {config.resolution} pixels; other sizes are possible, and outside what it"
        " learned.",
        "What is not in the table was not measured: no claim is made for other data, for robustness or for fairness. What"
        " its teacher gets wrong, or learned from its data, it is likely to have inherited.",
        "Explanations show what this model computes, not what is true of the world. Constants (positions, CLS, logit bias)"
        " contribute a residual that belongs to no pixel; `explanation.residual` gives it.",
    ]
    if student.stage == "converted":
        limits.insert(0, "It was not trained after its conversion, and its outputs mean little.")
    if student.stage in ("aligned", "finetuned") and not student.run:
        limits.append("The settings of its training are not recorded with it.")
    if student.stage == "finetuned" and student.run:
        limits.append(
            "The settings above are those of the fine-tuning; those of the alignment before it are not recorded."
        )
    return limits


def _licences(student: Published, origin: Origin) -> list[tuple[str, str]]:
    teacher, source = (str(student.teacher.get(key) or "") for key in ("name", "source"))
    terms = BENCHMARKS[origin.data_name].terms if origin.data_name in BENCHMARKS else ""
    rows = [(f"The teacher, {teacher or 'unnamed'}", _terms(licence_of(teacher)))]
    rows += [(f"The checkpoint, {source}", _terms(origin.inherited))] if source else []
    return [
        *rows,
        ("The data", public_words(origin.data_licence or terms) or "not stated by the publisher"),
        ("This student", _terms(origin.licence)),
        ("The code that made it, ALOE", "apache-2.0"),
    ]


def _terms(licence: Licence | None) -> str:
    if licence is None:
        return "not known here; ask its authors"
    return f"{licence.id}, {licence.link}" if licence.link else licence.id


def _facts(name: str, rows: Sequence[tuple[str, str]]) -> str:
    """A table of two columns of words."""
    return Table(name, "", (name, ""), (), (Block("", tuple(Row(row, ()) for row in rows)),)).to_markdown().strip()


def _dataset_id(name: str | None) -> str | None:
    """The hub's identifier of a data set, where a name is one."""
    if name is None:
        return None
    if name in BENCHMARKS:
        return BENCHMARKS[name].hub
    bare = name.removeprefix("hf:").split("@")[0].split("#")[0]
    return bare if is_hub_id(bare) else None


def _code(words: str) -> str:
    return f"`{printable(words).replace('`', chr(39))}`"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else str(value)
