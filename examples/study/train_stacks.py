"""Train all networks of a plan in stacks, several stacks at once, choose learning rates on validation data, and test the chosen networks.

    python -m examples.study.train_stacks --plan examples/study/ablations/main_table.yaml --output_dir outputs/main-table --jobs 8

An example of a plan:

    base: {dataset: data/rooms-64, image_size: 64, max_steps: 800}   # flags of `mult-hf train` that all networks have
    learning_rates: [1e-3, 2e-3, 4e-3]
    seeds: [0, 1, 2]
    networks:                                   # in order of importance; flags that differ from base
      MulT: {decoder: mult, block_attention: [self, encoder]}
      single-task: {alone: yes}                 # one network for every task
      own rows: {alone: yes, train_split: "train_{task}"}
      half as long: {steps: 0.5}                # share of base's steps
      at one rate: {learning_rates: [4e-3]}     # in place of the plan's
      more edges: {loss_weights: {edges2d: 20}} # in place of the data set's

Each network is trained with every learning rate and seed, all of them in one stack. The learning rate with the best mean gain over
the constant baseline on the validation split is chosen, and the networks with this rate are measured on the test split, once. The
results of a stack are written to one JSON file when it is finished. If the script is started again, it trains the stacks without a file.

With `--initial_weights`, training continues the networks of another study, which kept theirs by `--keep_weights`: the row of the same
name, with the same seed. `--frozen` measures them without training.
"""

import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from mult_hf import MulTImageProcessor
from mult_hf.cli import arguments as command_line
from mult_hf.cli.train import TrainFlags
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.cores import available_cores
from mult_hf.data.files import whole_file
from mult_hf.data.schema import load_rows, load_task_specs
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.cards import to_jsonable
from mult_hf.evaluation.comparison import gain_over
from mult_hf.evaluation.loop import evaluate
from mult_hf.inference.predictor import Predictor, predict
from mult_hf.training.initialization import build_model, build_processor

from . import decoders, rooms, streams  # noqa: F401  (decoders registers the study's own)
from .ablation import slug
from .graph import GraphedStep
from .networks import Network, Plan, expand
from .stack import Stack

KEYS = ("base", "learning_rates", "seeds", "networks")
REPLACED = ("dataset", "train_split", "tasks", "max_steps")  # flags of the plan's base that the command line may replace
OWN_FLAGS = ("seed", "learning_rate", "output_dir", "resume")  # flags that this script sets itself
CHUNK = 50  # samples that a process prepares at a time
CURVE = 10  # points of the stored curve of training losses
EVALUATED_AT_ONCE = 100  # images per batch in evaluations
TEST_SPLIT = "test"
GROUPS = ("room", "level", "block")  # columns that say which views belong together: of a room, a level, a part of a video


@dataclass
class StudyArguments:
    """What is trained, and how many processes and how much time it may use."""

    plan: Path = field(metadata={"help": "YAML file of the networks"})
    output_dir: Path = command_line.flag(Path("outputs/study"), "where one JSON file per network is written")
    jobs: int = command_line.flag(1, "stacks that train at once, each in a process of its own; with 1, everything is done in this process")
    minutes: float | None = command_line.flag(None, "time limit; stacks that are not finished by then are given up")
    graphs: bool = command_line.flag(False, "replay the steps from CUDA graphs: the same numbers in less time")
    keep_weights: Path | None = command_line.flag(None, "directory for the weights of the tested networks; by default they are not kept")
    initial_weights: Path | None = command_line.flag(None, "directory of weights that another study kept; random weights by default")
    frozen: bool = command_line.flag(False, "measure the initial weights without training")
    only: list[str] | None = command_line.flag(None, "rows of the plan to train; all by default")
    dataset: str | None = command_line.flag(None, "data set to use instead of the plan's")
    train_split: str | None = command_line.flag(None, "training rows to use instead of the plan's, for example train[:50]")
    tasks: list[str] | None = command_line.flag(None, "tasks to use instead of the plan's")
    max_steps: int | None = command_line.flag(None, "number of steps to use instead of the plan's")
    seeds: list[int] | None = command_line.flag(None, "seeds to use instead of the plan's")
    learning_rates: list[float] | None = command_line.flag(None, "learning rates to use instead of the plan's")

    def __post_init__(self) -> None:
        command_line.check_bounds(self, {0: ["minutes"], 1: ["jobs", "max_steps"]})
        if self.frozen and self.initial_weights is None:
            raise ValueError("--frozen is given without --initial_weights; networks with random weights would be measured")


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to train a stack.

    Args:
        network: the architecture to train.
        learning_rates: the stack has one network for each learning rate and seed.
        seeds: see `learning_rates`.
        directory: directory of the prepared samples of the network's rows, with one folder per seed.
        deadline: time (`time.time()`) after which the stack is given up.
        graphs: whether steps are replayed from a CUDA graph.
        weights: directory for the weights of the tested networks, or None.
        initial: directory of the weights to start from, or None for random ones.
        frozen: whether no step is taken.
    """

    network: Network
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    directory: Path
    deadline: float
    graphs: bool = False
    weights: Path | None = None
    initial: Path | None = None
    frozen: bool = False

    @property
    def members(self) -> list[tuple[float, int]]:
        """Learning rate and seed of each network of the stack."""
        return [(rate, seed) for rate in self.learning_rates for seed in self.seeds]


# --- the plan ---


def read_plan(path: Path, arguments: StudyArguments) -> Plan:
    """Read a plan; values on the command line replace those of the plan.

    Raises:
        ValueError: if a key is unknown or missing, `only` has a name that the plan does not have, or a network has a flag that this script
            sets itself.
    """
    content = yaml.safe_load(path.read_text()) or {}
    if set(content) != set(KEYS):
        raise ValueError(f"{path} has the keys {sorted(content)}; expected {', '.join(KEYS)}")
    given = {name: getattr(arguments, name) for name in REPLACED if getattr(arguments, name) is not None}
    base = {**content["base"], **given}
    for row, flags in content["networks"].items():
        if hidden := sorted(given.keys() & (flags or {}).keys()):
            raise ValueError(f"row {row!r} has its own {', '.join(hidden)}, which the command line cannot replace; leave out --{hidden[0]}")
    networks = [network for row, flags in content["networks"].items() for network in expand(row, {**base, **(flags or {})})]
    rows = [network.row for network in networks]
    if unknown := set(arguments.only or []) - set(rows):
        raise ValueError(f"--only has {sorted(unknown)}; {path} has {list(dict.fromkeys(rows))}")
    for network in networks:
        if own := network.flags.keys() & set(OWN_FLAGS):
            raise ValueError(f"network {network.name!r} has {sorted(own)}, which this script sets; use 'seeds' and 'learning_rates'")
    if arguments.learning_rates is not None:
        networks = [replace(network, learning_rates=None) for network in networks]
    return Plan(
        [network for network in networks if arguments.only is None or network.row in arguments.only],
        [float(rate) for rate in arguments.learning_rates or content["learning_rates"]],
        arguments.seeds or content["seeds"],
    )


# --- data ---


@cache
def split_rows(dataset: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split, decoded once per process."""
    return list(load_rows(dataset, split=split))


def processor_of(flags: TrainFlags, weights: Mapping[str, float] | None = None) -> MulTImageProcessor:
    """The image processor for a network's tasks, with its weights of losses; their only metrics are the headline metrics."""
    weights = weights or {}
    specs = {
        task: replace(spec, metrics=(rooms.headline(spec),), weight=weights.get(task, spec.weight))
        for task, spec in load_task_specs(flags.dataset, flags.tasks).items()
    }
    return build_processor(flags, specs, {"height": flags.image_size, "width": flags.image_size})


def prepare(network: Network, directory: Path, seed: int, positions: range) -> None:
    """Prepare some samples of a seed's stream, with all tasks of the data set."""
    flags = replace(network.parsed(seed=seed), tasks=None)
    streams.fill(directory / str(seed), split_rows(flags.dataset, flags.train_split), processor_of(flags), flags, positions)


def stream_directory(directory: Path, network: Network) -> Path:
    """Where the streams of a network's training rows lie; networks with the same rows share them."""
    return directory / quote(network.parsed().train_split, safe="")


def prepare_all(plan: Plan, directory: Path, pool: Executor) -> None:
    """Prepare the streams of all seeds and training splits, as many samples as the longest training needs.

    Raises:
        ValueError: if the networks differ in what their samples depend on.
    """
    parsed = [network.parsed() for network in plan.networks]
    shared = ("dataset", "validation_split", "image_size", "batch_size", "max_zoom", "color_jitter")
    for name in shared:
        if len(values := {str(getattr(flags, name)) for flags in parsed}) > 1:
            raise ValueError(f"the networks have several values of {name}: {', '.join(sorted(values))}; all train on the same samples")
    samples = max(flags.max_steps for flags in parsed) * parsed[0].batch_size
    specs = load_task_specs(parsed[0].dataset)
    chunks = [range(start, min(start + CHUNK, samples)) for start in range(0, samples, CHUNK)]
    waiting = []
    for place, network in {stream_directory(directory, network): network for network in plan.networks}.items():
        for seed in plan.seeds:
            streams.create(place / str(seed), specs, parsed[0].image_size, samples)
            waiting += [pool.submit(prepare, network, place, seed, chunk) for chunk in chunks]
    for done in tqdm(as_completed(waiting), total=len(waiting), desc="preparing samples", mininterval=5):
        done.result()


# --- one stack ---


def train_stack(job: Job) -> dict[str, Any] | None:
    """Train and measure a network with every learning rate and seed; None if time ran out."""
    started = time.time()
    if started > job.deadline:
        return None
    torch.set_num_threads(1)
    flags = job.network.parsed()
    torch.set_float32_matmul_precision(flags.float32_matmul)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    processor = processor_of(flags, job.network.loss_weights)
    models = {seed: new_network(flags, processor, seed) for seed in job.seeds}
    if job.initial is not None:
        for seed, model in models.items():
            load_weights(model, job.initial / slug(job.network.name) / f"{seed}.safetensors")
    facts = {"parameters": sum(p.numel() for p in models[job.seeds[0]].parameters()), "flops": forward_flops(models[job.seeds[0]], flags)}
    stack = Stack([models[seed] for _, seed in job.members], [rate for rate, _ in job.members], flags, accelerator.device)
    training = time.time()
    curve = {} if job.frozen else train(stack, job, flags, accelerator.device)
    if curve is None:
        return None
    facts |= {"seconds": time.time() - training, "networks": len(job.members), "device": device_name(accelerator.device)}
    steps = 0 if job.frozen else flags.max_steps
    print(f"{job.network.name}: {steps} steps of {len(stack)} networks in {facts['seconds']:.1f} s", file=sys.stderr, flush=True)
    measured = measure(stack, job, flags, processor, accelerator)
    if job.weights is not None:
        save_weights(stack, job, measured["chosen"])
    start = start_of(job.initial, job.frozen)
    described = {"row": job.network.row, "name": job.network.name, "flags": job.network.description, "start": start, "steps": steps}
    return to_jsonable(
        {**described, **facts, "seeds": list(job.seeds), "training_losses": curve, **measured, "all_seconds": time.time() - started}
    )


def new_network(flags: TrainFlags, processor: MulTImageProcessor, seed: int) -> torch.nn.Module:
    """The network that `mult-hf train` would start from."""
    set_seed(seed)
    return build_model(flags, processor.task_specs, flags.image_size)


def start_of(initial: Path | None, frozen: bool) -> str:
    """What the weights of a result are, in one word."""
    return "random" if initial is None else "frozen" if frozen else "continued"


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load the weights that a study kept; those of tasks that the network does not have are left out.

    Raises:
        ValueError: if a weight is missing, has another shape, or belongs to another architecture.
    """
    stored, own = load_file(path), model.state_dict()
    kept = {name: value for name, value in stored.items() if not _tasks_in(name) - set(model.config.task_specs)}
    unlike = sorted(name for name in own.keys() | kept.keys() if getattr(kept.get(name), "shape", 0) != getattr(own.get(name), "shape", 1))
    if unlike:
        raise ValueError(f"{path} does not fit the network, for example in {unlike[0]}; use the row, tasks and classes that made it")
    model.load_state_dict({name: stored[name].to(value.dtype) for name, value in own.items()})


def _tasks_in(name: str) -> set[str]:
    """The task in the name of a weight, if it belongs to one."""
    return set(re.findall(r"\.tasks\.(\w+)\.", f".{name}"))


@torch.no_grad()
def forward_flops(model: torch.nn.Module, flags: TrainFlags) -> int:
    """Floating-point operations of the matrix products and convolutions for one image; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, flags.image_size, flags.image_size))
    return counter.get_total_flops()


def device_name(device: torch.device) -> str:
    """Product name of a GPU, or the name of another device in torch."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def train(stack: Stack, job: Job, flags: TrainFlags, device: torch.device) -> dict[str, list[list[float]]] | None:
    """Take all steps of a stack.

    Returns:
        By task, the mean training loss in each tenth of the steps, (points, networks); None if time ran out.
    """
    opened = {seed: streams.Stream(job.directory / str(seed), list(stack.specs), flags.batch_size) for seed in job.seeds}
    seeds = [seed for _, seed in job.members]
    points = min(CURVE, flags.max_steps)
    sums = {task: torch.zeros(points, len(stack), device=device) for task in stack.specs}
    step = GraphedStep(stack, *streams.stacked_batch(opened, seeds, 0, device)) if job.graphs else stack.step
    for number in range(flags.max_steps):
        if time.time() > job.deadline:
            return None
        losses = step(*streams.stacked_batch(opened, seeds, number, device))
        for task, loss in losses.items():
            sums[task][number * points // flags.max_steps] += loss
    return {task: (values * points / flags.max_steps).tolist() for task, values in sums.items()}


def measure(stack: Stack, job: Job, flags: TrainFlags, processor: MulTImageProcessor, accelerator: Accelerator) -> dict[str, Any]:
    """Choose the learning rate on the validation split, and measure the networks with this rate on the test split."""
    collator = MultiTaskCollator(processor)
    measured = partial(evaluate, collator=collator, accelerator=accelerator, batch_size=EVALUATED_AT_ONCE, progress=False)
    constant = constant_baseline(split_rows(flags.dataset, flags.train_split), collator)
    members = {str(number): predictor_of(stack, number) for number in range(len(stack))}
    found = measured({"constant": constant, **members}, split_rows(flags.dataset, flags.validation_split), per_image=False)
    baseline = found["constant"].compute()
    validation = [found[number].compute() for number in members]
    finite = [all(map(math.isfinite, values.values())) for values in validation]
    gains = [gain_over(values, baseline, processor.task_specs) if known else math.nan for values, known in zip(validation, finite)]
    by_rate: dict[float, dict[str, list[Any]]] = {rate: {"gains": [], "validation": []} for rate in job.learning_rates}
    for (rate, _), gain, values in zip(job.members, gains, validation):
        by_rate[rate]["gains"].append(gain)
        by_rate[rate]["validation"].append(values)
    chosen = best_rate({rate: results["gains"] for rate, results in by_rate.items()})
    rows = split_rows(flags.dataset, TEST_SPLIT)
    best = {number: members[number] for number, (rate, _) in zip(members, job.members) if rate == chosen}
    tested = list(measured(best, rows).values())
    return {
        "constant_baseline": baseline,
        "learning_rates": {str(rate): results for rate, results in by_rate.items()},
        "chosen": chosen,
        "test": [evaluation.compute() for evaluation in tested],
        "rooms": [rooms.to_json(rooms.sums_by_room(evaluation, groups_of(rows))) for evaluation in tested],
    }


def groups_of(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The room, or whatever column of [`GROUPS`] there is, of each row.

    Raises:
        ValueError: if there is none.
    """
    column = next((name for name in GROUPS if name in rows[0]), None)
    if column is None:
        raise ValueError(f"the rows have none of the columns {', '.join(GROUPS)}; add one that says which views belong together")
    return [row[column] for row in rows]


def predictor_of(stack: Stack, number: int) -> Predictor:
    """A predictor with one network of a stack; it returns maps on the CPU, where metrics of such small maps take less time."""
    device = next(stack.model.parameters()).device
    return lambda pixel_values: {task: maps.cpu() for task, maps in predict(stack.network(number), pixel_values.to(device)).items()}


def save_weights(stack: Stack, job: Job, chosen: float) -> None:
    """Keep the weights of the tested networks as `NAME/SEED.safetensors`, in half precision."""
    directory = job.weights / slug(job.network.name)
    directory.mkdir(parents=True, exist_ok=True)
    for number, (rate, seed) in enumerate(job.members):
        if rate == chosen:
            state = stack.network(number).state_dict()
            save_file({name: values.half().contiguous().cpu() for name, values in state.items()}, directory / f"{seed}.safetensors")


def best_rate(gains: Mapping[float, Sequence[float]]) -> float:
    """The learning rate with the highest mean gain over its seeds; a rate with a diverged seed (NaN) is excluded.

    Raises:
        FloatingPointError: if training diverged with every rate.
    """
    means = {rate: sum(values) / len(values) for rate, values in gains.items()}
    finite = {rate: mean for rate, mean in means.items() if math.isfinite(mean)}
    if not finite:
        raise FloatingPointError(f"the weights are not finite with any learning rate of {list(gains)}; add lower ones")
    return max(finite, key=finite.__getitem__)


# --- all stacks ---


def train_all(plan: Plan, output_dir: Path, pool: Executor, directory: Path, deadline: float, **options: Any) -> list[str]:
    """Train all stacks of a plan, and write each result as it comes.

    Args:
        plan: what to train.
        output_dir: directory of the results.
        pool: the processes.
        directory: directory of the prepared samples, with one folder per training split.
        deadline: time (`time.time()`) after which stacks are given up.
        options: further arguments of a [`Job`].

    Returns:
        One message per network that failed or was not finished in time.
    """
    waiting = {}
    for network in plan.networks:
        rates = network.learning_rates or plan.learning_rates
        job = Job(network, tuple(rates), tuple(plan.seeds), stream_directory(directory, network), deadline, **options)
        waiting[pool.submit(train_stack, job)] = network
    problems = []
    for done in tqdm(as_completed(waiting), total=len(waiting), desc="stacks"):
        name, problem = waiting[done].name, done.exception()
        result = None if problem else done.result()
        if result is None:
            problems.append(f"{name}: {f'{type(problem).__name__}: {problem}' if problem else 'not finished in time'}")
            continue
        write_result(output_dir / waiting[done].file_name, result)
        tqdm.write(f"{name}: measured after {result['all_seconds']:.0f} s, learning rate {result['chosen']}", file=sys.stderr)
    return problems


def executor(jobs: int) -> Executor:
    """Processes that each train one stack at a time; a single job runs in this process."""
    if jobs == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))  # forked processes could not use CUDA


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result; an interruption leaves no partial file."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(rooms.compact(result)) + "\n")


def unfinished(plan: Plan, output_dir: Path, start: str = "random") -> Plan:
    """The plan with only those networks that have no result yet.

    Args:
        plan: what to train.
        output_dir: directory of the results.
        start: see [`start_of`].

    Raises:
        ValueError: if a result was made with other flags, learning rates, seeds or another start.
    """
    waiting = []
    for network in plan.networks:
        path = output_dir / network.file_name
        if not path.is_file():
            waiting.append(network)
            continue
        found = json.loads(path.read_text())
        made = (found["flags"], [float(rate) for rate in found["learning_rates"]], found["seeds"], found.get("start", "random"))
        wanted = (network.description, list(network.learning_rates or plan.learning_rates), plan.seeds, start)
        if made != wanted:
            raise ValueError(f"{path} was made with {made}, the plan has {wanted}; rename the network, or remove that file")
    return replace(plan, networks=waiting)


def main(argv: Sequence[str] | None = None) -> int:
    """Train the networks of a plan that have no result yet.

    Args:
        argv: the flags; by default those of this process.

    Returns:
        The exit status: 1 if a stack failed or was not finished in time.
    """
    arguments = command_line.parse_arguments(StudyArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    deadline = math.inf if arguments.minutes is None else time.time() + 60 * arguments.minutes
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    start = start_of(arguments.initial_weights, arguments.frozen)
    plan = unfinished(read_plan(arguments.plan, arguments), arguments.output_dir, start)
    if not plan.networks:
        print("every network of the plan has a result")
        return 0
    groups_of(load_rows(plan.networks[0].flags["dataset"], split=f"{TEST_SPLIT}[:1]"))  # refused now, not after the training
    with TemporaryDirectory() as directory:
        if not arguments.frozen:
            with executor(arguments.jobs if arguments.jobs == 1 else max(arguments.jobs, available_cores())) as pool:
                prepare_all(plan, Path(directory), pool)
        options: dict[str, Any] = {"graphs": arguments.graphs, "weights": arguments.keep_weights}
        options |= {"initial": arguments.initial_weights, "frozen": arguments.frozen}
        with executor(arguments.jobs) as pool:
            problems = train_all(plan, arguments.output_dir, pool, Path(directory), deadline, **options)
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
