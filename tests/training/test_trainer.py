"""Proves that `transformers.Trainer` trains, evaluates, resumes and adapts the model, with the same numbers as a plain loop."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from transformers import Trainer, TrainingArguments

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.metrics import MultiTaskMetrics
from mult_hf.training.trainer_metrics import TrainerMetrics

ROOT = Path(__file__).resolve().parents[2]
SIDE = 32
AS_IT_IS = {"dtype": "float32"}
TASKS = [
    {"name": "segmentation", "class_names": ["wall", "floor", "bed"], "encoding": {"dtype": "uint8"}},
    {"name": "depth", "encoding": AS_IT_IS},
    {"name": "normals", "encoding": AS_IT_IS},
]
EVALUATION = {"batch_eval_metrics": True, "per_device_eval_batch_size": 2}
ENCODER_ATTENTION = r"mult\.backbone\..*\.(q_proj|v_proj)"


def noise_rows(count):
    """Rows of images and maps of noise, every pixel of every map known."""
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(count, SIDE, SIDE, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return [
        {
            "image": rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8),
            "segmentation": rng.integers(0, 3, (SIDE, SIDE)).astype(np.uint8),
            "depth": rng.uniform(1, 5, (SIDE, SIDE)).astype(np.float32),
            "normals": normals[number].astype(np.float32),
        }
        for number in range(count)
    ]


@pytest.fixture
def processor():
    return MulTImageProcessor(size={"height": SIDE, "width": SIDE}, tasks=TASKS)


def test_a_perfect_prediction_for_the_canonical_camera_has_no_error_even_beyond_the_range_of_true_values():
    depth = {"name": "depth", "activation": "identity", "value_range": (0.0, 10.0), "metrics": ["rmse"]}
    metrics = TrainerMetrics(MulTImageProcessor(tasks=[depth], canonical_focal_length=200.0))
    distant = {"depth": torch.full((1, 1, 4, 4), 15.0)}  # 7.5 m in an image of half the focal length
    sums = metrics.sums_of_images(distant, distant)
    assert metrics(SimpleNamespace(predictions=sums), compute_result=True) == {"depth/rmse": 0}


@pytest.fixture
def make_trainer(shallow_model, processor, tmp_path):
    """Make a Trainer of the tiny model, or of the one given; keywords as for TrainingArguments."""

    def make(rows, model=None, metrics=None, **arguments):
        defaults = {"output_dir": tmp_path, "use_cpu": True, "remove_unused_columns": False, "report_to": "none", "disable_tqdm": True}
        return Trainer(
            model=model or shallow_model(tasks=TASKS),
            args=TrainingArguments(**{**defaults, "label_names": ["labels"], "logging_steps": 1, "save_strategy": "no", **arguments}),
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=MultiTaskCollator(processor),
            compute_metrics=metrics,
            preprocess_logits_for_metrics=metrics and metrics.sums_of_images,
        )

    return make


def without_drop_path(model):
    """The encoder without its random depth, for tests in which two runs must see the same network."""
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return model


def one_step_of_sgd(**arguments):
    """Arguments of a single step whose size is the gradient's, so that equal weights afterwards mean equal gradients."""
    return {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, **arguments}


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_same(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, equal_nan=True, **{"rtol": 0, "atol": 0, **tolerance})


def plain_loop(model, processor, rows):
    """Metrics image by image, without Trainer."""
    metrics, collator = MultiTaskMetrics(processor.task_specs), MultiTaskCollator(processor)
    for row in rows:
        batch = collator([row])
        with torch.no_grad():
            (result,) = processor.post_process(model(pixel_values=batch["pixel_values"]))
        metrics.update({t: maps["prediction"] for t, maps in result.items()}, {t: maps[0] for t, maps in batch["labels"].items()})
    return metrics.compute()


def numbers_of(results, prefix="eval"):
    """The metrics among what Trainer returns, by "task/metric"."""
    return {name.removeprefix(f"{prefix}_"): value for name, value in results.items() if "/" in name}


# --- training ---


def test_a_model_overfits_two_images(make_trainer):
    trainer = make_trainer(noise_rows(2), max_steps=40, learning_rate=5e-3, per_device_train_batch_size=2)
    trainer.train()
    assert losses(trainer)[-1] < 0.8 * losses(trainer)[0]


@pytest.mark.parametrize("left_out", [{"depth": None}, {}], ids=["null cells", "no column"])
def test_a_task_without_labels_does_not_affect_others_and_has_no_metric(make_trainer, processor, left_out):
    rows = [{name: value for name, value in row.items() if name != "depth"} | left_out for row in noise_rows(2)]
    trainer = make_trainer(rows, metrics=TrainerMetrics(processor), max_steps=20, learning_rate=5e-3, **EVALUATION)
    before = weights(trainer.model.heads.tasks["depth"])
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
    assert_same(weights(trainer.model.heads.tasks["depth"]), before)
    results = numbers_of(trainer.evaluate())
    assert {name for name, value in results.items() if np.isnan(value)} == {name for name in results if name.startswith("depth/")}


def test_accumulated_batches_give_the_step_of_one_large_batch_where_all_pixels_are_known(make_trainer, shallow_model):
    steps = []
    for batch_size, accumulated in ((4, 1), (1, 4)):
        arguments = one_step_of_sgd(per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulated)
        trainer = make_trainer(noise_rows(4), without_drop_path(shallow_model(tasks=TASKS)), **arguments)
        before = weights(trainer.model)
        trainer.train()
        steps.append({name: value - before[name] for name, value in weights(trainer.model).items()})
    assert max(step.abs().max() for step in steps[0].values()) > 0.01, "premise: a step was made"
    assert_same(steps[1], steps[0], atol=1e-5)


def test_accumulated_batches_have_equal_weight_for_any_number_of_known_pixels(make_trainer, shallow_model, processor):
    """A large batch would pool the pixels: there the image with four known normals would weigh next to nothing."""
    whole, nearly_unknown = noise_rows(2)
    nearly_unknown["normals"][2:], nearly_unknown["normals"][:, 2:] = np.nan, np.nan
    model = without_drop_path(shallow_model(tasks=TASKS))
    arguments = one_step_of_sgd(per_device_train_batch_size=1, gradient_accumulation_steps=2)
    trainer = make_trainer([whole, nearly_unknown], model, **arguments)
    gradients = []
    for batches in ([[whole], [nearly_unknown]], [[whole, nearly_unknown]]):
        model.zero_grad()
        for batch in batches:
            (model(**MultiTaskCollator(processor)(batch)).loss / len(batches)).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    head = "heads.tasks.normals.projection.weight"
    assert not torch.allclose(gradients[0][head], gradients[1][head], rtol=0.1), "premise: the two means differ"
    expected = {name: p.detach() - 0.1 * gradients[0][name] for name, p in model.named_parameters()}
    trainer.train()
    assert_same(dict(model.named_parameters()), expected, atol=1e-5)


def test_gradient_checkpointing_changes_no_step(make_trainer, shallow_model):
    models = [without_drop_path(shallow_model(tasks=TASKS)) for _ in range(2)]
    plain = make_trainer(noise_rows(2), models[0], **one_step_of_sgd())
    checkpointed = make_trainer(noise_rows(2), models[1], gradient_checkpointing=True, **one_step_of_sgd())
    plain.train()
    checkpointed.train()
    assert checkpointed.model.is_gradient_checkpointing
    assert_same(weights(checkpointed.model), weights(plain.model), atol=1e-6)


def test_bf16_trains_weights_that_stay_in_full_precision(make_trainer, shallow_model):
    plain, half = (
        make_trainer(noise_rows(2), without_drop_path(shallow_model(tasks=TASKS)), bf16=flag, max_steps=1) for flag in (False, True)
    )
    plain.train()
    half.train()
    assert losses(half)[0] == pytest.approx(losses(plain)[0], rel=0.01)
    assert losses(half)[0] != losses(plain)[0], "premise: the arithmetic was another"
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}


# --- evaluation ---


def test_evaluation_gives_the_numbers_of_a_plain_loop(make_trainer, processor):
    """Five images in batches of two, one of them without depth and one half unknown."""
    rows = noise_rows(5)
    rows[1]["depth"] = None
    rows[2]["normals"][:16] = np.nan
    trainer = make_trainer(rows, metrics=TrainerMetrics(processor), **EVALUATION)
    expected = plain_loop(trainer.model, processor, rows)
    assert np.isfinite(list(expected.values())).all()
    for _ in range(2):  # a second evaluation starts afresh
        assert numbers_of(trainer.evaluate()) == pytest.approx(expected, rel=1e-5)


def test_no_map_is_kept_during_an_evaluation(make_trainer, processor):
    """Only an image's sums are gathered; their size does not depend on the image's, and they are not kept."""
    metrics = TrainerMetrics(processor)
    gathered = []
    trainer = make_trainer(noise_rows(5), metrics=metrics, **EVALUATION)
    trainer.compute_metrics = lambda evaluation, compute_result: gathered.append(evaluation) or metrics(evaluation, compute_result)
    output = trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation")
    truth = {task: maps[0] for task, maps in MultiTaskCollator(processor)(noise_rows(1))["labels"].items()}
    one = MultiTaskMetrics(processor.task_specs)
    one.update(truth, truth)
    for batch in gathered:
        assert {name: rows[0].shape for name, rows in batch.predictions.items()} == {name: sums.shape for name, sums in one.state().items()}
    assert [{len(rows) for rows in batch.predictions.values()} for batch in gathered] == [{2}, {2}, {1}]
    assert output.predictions is None
    assert output.label_ids is None


def test_the_best_checkpoint_is_loaded_with_its_encoder(make_trainer, processor):
    """Saved names differ from those in memory; loading only by name would keep the encoder of the last step."""
    schedule = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    worst = {"metric_for_best_model": "depth/rmse", "greater_is_better": True}  # a sure way to a best that is not the last
    trainer = make_trainer(
        noise_rows(2), metrics=TrainerMetrics(processor), max_steps=3, learning_rate=5e-3, **schedule, **worst, **EVALUATION
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-3", "premise: the last step is not the best"
    expected = MulTForMultiTaskDensePrediction.from_pretrained(best)
    assert_same(weights(trainer.model), weights(expected))


@pytest.mark.parametrize("metrics", ["", "with metrics"])
def test_predict_returns_maps_or_with_metrics_the_sums_of_each_image(make_trainer, processor, metrics):
    rows = noise_rows(3)
    trainer = make_trainer(rows, metrics=TrainerMetrics(processor) if metrics else None, **EVALUATION)
    predicted = trainer.predict(rows)
    if metrics:
        expected = plain_loop(trainer.model, processor, rows)
        collected = MultiTaskMetrics(processor.task_specs)
        for number in range(3):
            collected.merge_state({name: torch.as_tensor(sums[number]) for name, sums in predicted.predictions.items()})
        assert collected.compute() == pytest.approx(expected, rel=1e-5)
        assert numbers_of(predicted.metrics, "test") == pytest.approx(expected, rel=1e-5)
    else:
        with torch.no_grad():
            expected = trainer.model(MultiTaskCollator(processor)(rows)["pixel_values"]).predictions
        assert_same({task: torch.from_numpy(maps) for task, maps in predicted.predictions.items()}, expected, atol=1e-5)


def test_predictions_without_labels_stay_maps(processor):
    maps = {"depth": torch.ones(1, 1, SIDE, SIDE)}
    assert TrainerMetrics(processor).sums_of_images(maps, None) is maps


def test_a_trainer_set_up_to_collect_maps_is_refused(make_trainer, processor):
    metrics = TrainerMetrics(processor)
    with pytest.raises(ValueError, match="batch_eval_metrics=True"):
        make_trainer(noise_rows(1), metrics=metrics).evaluate()
    trainer = make_trainer(noise_rows(1), metrics=metrics, **EVALUATION)
    trainer.preprocess_logits_for_metrics = None
    with pytest.raises(ValueError, match=r"maps of \['segmentation', 'depth', 'normals'\].*preprocess_logits_for_metrics"):
        trainer.evaluate()


# --- resuming ---


def test_a_resumed_run_ends_like_an_uninterrupted_one(make_trainer):
    arguments = {"max_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    straight = make_trainer(noise_rows(5), **arguments)
    straight.train()
    resumed = make_trainer(noise_rows(5), **arguments)
    torch.nn.init.zeros_(resumed.model.get_input_embeddings().weight)  # it must all come from the checkpoint
    resumed.train(resume_from_checkpoint=f"{straight.args.output_dir}/checkpoint-2")
    assert losses(resumed) == losses(straight)
    assert_same(weights(resumed.model), weights(straight.model))


# --- adapters on the encoder ---


@pytest.fixture
def adapted(shallow_model):
    """The tiny model with adapters on its encoder's attention and fully trained heads; its decoders are frozen."""
    model = shallow_model(tasks=TASKS)
    heads = [f"{task}.projection" for task in model.task_names]
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=ENCODER_ATTENTION, modules_to_save=heads))


def test_adapters_on_the_encoder_touch_no_decoder(adapted):
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any("lora" in name for name in trained)
    assert all("mult.backbone" in name for name in trained if "lora" in name)
    assert {name.split(".")[-4] for name in trained if "lora" not in name} == {"projection"}
    assert not any("decoder" in name for name in trained)


def test_adapters_train_save_load_and_merge_with_the_same_numbers(make_trainer, adapted, shallow_model, processor, tmp_path):
    rows = noise_rows(3)
    trainer = make_trainer(rows, model=adapted, metrics=TrainerMetrics(processor), max_steps=4, learning_rate=5e-2, **EVALUATION)
    untrained = numbers_of(trainer.evaluate())
    decoders = weights(adapted.base_model.model.mult.decoder)
    trainer.train()
    expected = numbers_of(trainer.evaluate())
    assert expected != pytest.approx(untrained, rel=1e-3), "premise: training changed the numbers"
    assert_same(weights(adapted.base_model.model.mult.decoder), decoders)

    trainer.save_model(tmp_path / "adapter")
    saved = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = sum(parameter.nbytes for parameter in shallow_model(tasks=TASKS).parameters())
    assert saved.stat().st_size < whole / 10
    loaded = peft.PeftModel.from_pretrained(shallow_model(tasks=TASKS), tmp_path / "adapter").eval()
    assert plain_loop(loaded, processor, rows) == pytest.approx(expected, rel=1e-5)
    merged = loaded.merge_and_unload()
    assert isinstance(merged, MulTForMultiTaskDensePrediction)
    assert plain_loop(merged, processor, rows) == pytest.approx(expected, rel=1e-4)


def test_a_resumed_run_with_adapters_ends_like_an_uninterrupted_one(make_trainer, shallow_model):
    arguments = {"max_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2}

    def trainer():
        torch.manual_seed(0)
        model = peft.get_peft_model(shallow_model(tasks=TASKS), peft.LoraConfig(r=2, target_modules=ENCODER_ATTENTION))
        return make_trainer(noise_rows(5), model=model, **arguments)

    straight, resumed = trainer(), trainer()
    straight.train()
    resumed.train(resume_from_checkpoint=f"{straight.args.output_dir}/checkpoint-2")
    assert losses(resumed) == losses(straight)
    assert_same(weights(resumed.model), weights(straight.model))


# --- the example, in one process and in two ---


def run_example(output_dir, *launcher):
    """Train one step of eight images in all, evaluate before and after; what Trainer logged."""
    processes = 2 if launcher else 1
    flags = "--use_cpu --max_steps 1 --optim sgd --learning_rate 0.01 --warmup_steps 0 --logging_steps 1 --disable_tqdm true"
    flags += " --eval_on_start --eval_strategy no --save_strategy no --load_best_model_at_end false --per_device_eval_batch_size 7"
    flags += f" --per_device_train_batch_size {8 // processes} --output_dir {output_dir}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, str(ROOT / "examples/trainer.py"), *flags.split()]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads((output_dir / "trainer_state.json").read_text())["log_history"]


@pytest.mark.nightly
@pytest.mark.slow
def test_two_processes_evaluate_and_train_like_one(tmp_path):
    """64 images in batches of seven: the last ones of two processes hold six repeated images, which must not count."""
    one = run_example(tmp_path / "one")
    two = run_example(tmp_path / "two", "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    before, after = ([numbers_of(log[number]) for log in (one, two)] for number in (0, -1))
    assert before[0]
    assert before[1] == pytest.approx(before[0], rel=1e-5)
    assert after[0] != pytest.approx(before[0], rel=1e-3), "premise: training changed the numbers"
    # Not the same step: the loss is a mean over the known pixels of a process's batch, and classes are not known everywhere.
    assert after[1] == pytest.approx(after[0], rel=2e-2)
    model = MulTForMultiTaskDensePrediction.from_pretrained(tmp_path / "two")
    assert MulTImageProcessor.from_pretrained(tmp_path / "two").task_specs == model.config.task_specs
