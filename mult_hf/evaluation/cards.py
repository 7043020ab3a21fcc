"""Publish results: in model cards, as the Hub's `eval_results`, and as JSON without paths of this machine."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load, try_to_load_from_cache

from mult_hf.data.files import write_text
from mult_hf.data.markdown import markdown_table
from mult_hf.model.tasks import TaskSpec


def to_jsonable(value: Any) -> Any:
    """Convert values for JSON: unknown and non-finite numbers become None."""
    if isinstance(value, Mapping):
        return {key: to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shareable(value: Any, root: Path) -> Any:
    """Shorten paths for publication: relative to `root` inside that directory, and relative to the home directory elsewhere."""
    return str(value).replace(f"{root}/", "").replace(str(Path.home()), "~") if isinstance(value, (str, Path)) else value


def public_name(name_or_path: str) -> str:
    """Public name of a model or data set: the last part of a local directory, or the Hub id."""
    path = Path(name_or_path.removeprefix("file://"))
    return path.resolve().name if path.is_dir() else name_or_path


TRAINED_ON = "mult_trained_on"
"""Key in the header of a model's card: what it was trained on, in words for people who try it; or a mapping of tasks to this."""

OUTPUTS = "## Outputs"
"""Heading that follows the sections on results in a model's card."""


def before_outputs(text: str, section: str) -> str:
    """A card's text with a further section after those on results, so that they stay in the order in which they were written.

    Args:
        text: of the card; if it does not have the heading [`OUTPUTS`], the section comes last.
        section: the heading and its text.
    """
    before, heading, after = text.partition(f"\n{OUTPUTS}\n")
    return f"{before.rstrip()}\n\n{section.strip()}\n{heading}{after}"


def card_template() -> Path:
    """The template of model cards: `model_card.md` of the checkout, or its copy in an installed package.

    Raises:
        FileNotFoundError: if neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package / "model_card.md", package.parent / "model_card.md"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"the template of model cards is at none of {[str(place) for place in places]}; reinstall mult-hf")
    return found


def eval_results(
    values: Mapping[str, float],
    specs: Mapping[str, TaskSpec],
    dataset: str,
    split: str,
    settings: Mapping[str, Any] | None = None,
) -> list[EvalResult]:
    """Convert metrics to entries of a model card.

    Args:
        values: metrics by `"task/metric"`, as from `MultiTaskMetrics.compute`; unknown ones (NaN) are left out.
        specs: the tasks' entries.
        dataset: name or Hub id of the data.
        split: split of the data.
        settings: settings that differ from the defaults, such as test-time augmentation, as JSON values.

    Returns:
        One entry per metric, rounded to five decimal places, or to five digits below 0.0001.
    """
    return [
        EvalResult(
            task_type=specs[name.split("/")[0]].transformers_task or "image-to-image",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=name.split("/")[1],
            metric_name=name,
            metric_value=round(value, 5) if abs(value) >= 1e-4 else float(f"{value:.5g}"),
            metric_args=dict(settings) if settings else None,
        )
        for name, value in values.items()
        if not math.isnan(value)
    ]


# The Hub's name of the task for each kind of output.
_HUB_TASKS = {"depth-estimation": "depth-estimation", "semantic-segmentation": "image-segmentation"}


def describe_data(data: str | Mapping[str, str]) -> str:
    """Training data in words; tasks are named if their data differ."""
    if isinstance(data, str):
        return data
    parts = [f"{name} ({', '.join(task for task, of_task in data.items() if of_task == name)})" for name in dict.fromkeys(data.values())]
    return f"{', '.join(parts[:-1])}, and {parts[-1]}" if len(parts) > 1 else parts[0]


def trained_on(name_or_path: str) -> str | None:
    """What a model was trained on, in words, as its card says it; see [`training_data`]."""
    data = training_data(name_or_path)
    return None if data is None else describe_data(data)


def training_data(name_or_path: str) -> str | dict[str, str] | None:
    """What a model's card says that it was trained on, or by task; `None` if it says nothing, or is not on this machine.

    Args:
        name_or_path: local directory, or Hub id of a model whose card was downloaded before.
    """
    try:
        is_local = Path(name_or_path).is_dir()
        path = Path(name_or_path) / "README.md" if is_local else try_to_load_from_cache(name_or_path, "README.md")
        header = metadata_load(path) if isinstance(path, (str, Path)) else None
    except (OSError, ValueError, yaml.YAMLError):  # HFValidationError: neither a directory nor a Hub id
        return None
    said = header.get(TRAINED_ON) if isinstance(header, dict) else None
    if isinstance(said, dict) and said and all(isinstance(each, str) for each in [*said, *said.values()]):
        return said
    return said if isinstance(said, str) else None


def write_card(
    path: Path,
    template: Path,
    specs: Mapping[str, TaskSpec],
    results: Sequence[EvalResult],
    data_sets: str | Mapping[str, str] | None = None,
    **text: Any,
) -> None:
    """Fill a template with a model's description and results, and write it as the model's card.

    Args:
        path: the model's README.md; the directory's name is the model's.
        template: template with `{{ card_data }}` for the metadata and other names in double braces, such as this repository's
            `model_card.md`.
        specs: the model's task entries.
        results: entries from [`eval_results`].
        data_sets: public names of the training data, or by task, see [`TRAINED_ON`].
        text: values of the other names in the template.
    """
    known = [_HUB_TASKS[spec.transformers_task] for spec in specs.values() if spec.transformers_task in _HUB_TASKS]
    name, shown = path.resolve().parent.name, next(iter(specs.values()))
    extra: dict[str, Any] = {} if data_sets is None else {TRAINED_ON: data_sets}
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=known[0] if known else "image-to-image",
        model_name=name,
        eval_results=[*results] or None,
        tags=["mult", "multi-task", "multitask-vision", "dense-prediction", *specs],
        metrics=sorted({result.metric_type for result in results}),
        **extra,
    )
    rows = [[s.name, s.description, "class id" if s.is_classification else s.unit, str(s.channels)] for s in specs.values()]
    card = ModelCard.from_template(
        data,
        template_path=str(template),
        model_name=name,
        model_path=name,
        task_list=", ".join(specs),
        example_line=f'maps["{shown.name}"]["prediction"]  # {shown.description} maps["{shown.name}"]["image"] shows it in colour.',
        outputs_table=markdown_table(["task", "meaning", "unit", "channels"], rows),
        **text,
    )
    write_text(path, str(card))


def update_card(path: Path, results: Sequence[EvalResult]) -> None:
    """Write results into the metadata of a model card. Only earlier values of the same measurements are replaced.

    Args:
        path: the model's README.md.
        results: entries from [`eval_results`].

    Raises:
        ValueError: if there is no card.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `mult-hf train` writes a card next to a model, or start from model_card.md")
    card = ModelCard.load(path)
    kept = [old for old in card.data.eval_results or [] if not any(old.is_equal_except_value(new) for new in results)]
    card.data.eval_results = [*kept, *results]
    card.data.model_name = card.data.model_name or path.resolve().parent.name
    write_text(path, str(card))
