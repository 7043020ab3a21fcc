"""Proves that progress and log survive an interruption, and that logged losses are means."""

import pytest

from mult_hf.training.progress import JsonLinesLog, Progress, describe_rows
from mult_hf.training.stream import TrainingStream


def test_progress_survives_a_checkpoint():
    progress = Progress({"seed": "0"}, step=7, seconds=1.5, best_gain=2.0, best_step=5, losses={"depth": 0.5}, batches=3)
    restored = Progress({"seed": "0"})
    restored.load_state_dict(progress.state_dict())
    assert restored == progress


def test_logged_losses_are_means_over_the_batches_since_the_last_entry():
    progress = Progress({})
    progress.note_losses({"depth": 1.0, "normals": 4.0})
    progress.note_losses({"depth": 3.0, "normals": 8.0})
    assert progress.take_mean_losses() == pytest.approx({"depth": 2.0, "normals": 6.0})
    progress.note_losses({"depth": 5.0})
    assert progress.take_mean_losses() == pytest.approx({"depth": 5.0}), "the count starts anew"


def test_batches_without_labels_of_a_task_do_not_count_in_its_mean():
    """Their loss is exactly 0, which would make the mean too small."""
    progress = Progress({})
    for depth in (0.0, 1.5, 0.0, 0.5):
        progress.note_losses({"depth": depth, "normals": 0.0, "edges2d": 2.0})
    assert progress.take_mean_losses() == pytest.approx({"depth": 1.0, "normals": 0.0, "edges2d": 2.0})


def test_progress_of_a_version_that_did_not_count_labels_is_read():
    saved = Progress({}, losses={"depth": 6.0}, batches=3).state_dict()
    del saved["known"]
    restored = Progress({})
    restored.load_state_dict(saved)
    assert restored.take_mean_losses() == pytest.approx({"depth": 2.0})


def test_the_checkpoint_of_another_run_is_refused_with_the_difference():
    saved = Progress({"seed": "0", "learning_rate": "0.1"}).state_dict()
    with pytest.raises(ValueError, match=r"--learning_rate was 0\.1 and is 0\.2; give the same flags"):
        Progress({"seed": "0", "learning_rate": "0.2"}).load_state_dict(saved)


def test_a_flag_that_an_older_checkpoint_does_not_have_must_be_unused():
    saved = Progress({"seed": "0"}).state_dict()
    for unused in ("False", "None"):
        Progress({"seed": "0", "newer": unused}).load_state_dict(saved)
    with pytest.raises(ValueError, match="--newer was None and is True"):
        Progress({"seed": "0", "newer": "True"}).load_state_dict(saved)


@pytest.mark.parametrize("now", [{"training": "5 rows, b"}, {"training": "4 rows, b"}, {}], ids=["fewer", "contents", "none"])
def test_data_changed_since_the_checkpoint_are_refused(now):
    saved = Progress({}, {"training": "4 rows, a"}).state_dict()
    with pytest.raises(ValueError, match=r"the data changed since the checkpoint \(training: 4 rows, a at the checkpoint, .* now\)"):
        Progress({}, now).load_state_dict(saved)


def test_what_an_older_checkpoint_does_not_describe_is_kept_for_the_next():
    progress = Progress({}, {"training": "4 rows, a", "depth/loss": "l1"})
    progress.load_state_dict(Progress({}, {"training": "4 rows, a"}).state_dict())
    assert progress.data == {"training": "4 rows, a", "depth/loss": "l1"}
    with pytest.raises(ValueError, match=r"depth/loss: l1 at the checkpoint, silog now"):
        Progress({}, {"training": "4 rows, a", "depth/loss": "silog"}).load_state_dict(progress.state_dict())


def test_samples_are_named_by_their_row_and_short_columns():
    rows = [{"image": object(), "room": number, "note": "x" * 100} for number in range(3)]
    stream = TrainingStream(rows, seed=0)
    row = stream.row_at(4)
    assert describe_rows(stream, [4]) == [f"row {row} (room {row})"]


@pytest.mark.parametrize("count", [1, 4, 8, 64, 1000])
def test_the_samples_of_a_large_batch_leave_room_for_the_rest_of_a_message(count):
    stream = TrainingStream([{"room": number, "note": "x" * 60} for number in range(2000)], seed=0)
    described = describe_rows(stream, range(count))
    assert len("; ".join(described)) < 420
    assert described[0].endswith(f"note {'x' * 60})")
    named = [each for each in described if each.startswith("row")]
    assert [int(each.split()[1]) for each in named] == [stream.row_at(position) for position in range(len(named))]
    assert described[len(named) :] == ([f"and {count - len(named)} more"] if count > len(named) else [])


def test_a_log_keeps_its_entries_and_drops_later_steps(tmp_path):
    log = JsonLinesLog(tmp_path / "runs" / "log.jsonl")
    assert log.entries() == []
    for step in (1, 2, 3):
        log.append({"step": step, "loss": step / 2})
    log.drop_after(2)
    log.append({"step": 3, "loss": 9.0})
    assert [entry["loss"] for entry in log.entries()] == [0.5, 1.0, 9.0]


def test_a_truncated_line_is_not_an_entry(tmp_path):
    log = JsonLinesLog(tmp_path / "log.jsonl")
    log.append({"step": 1})
    with log.path.open("a") as file:
        file.write('{"step": 2')
    log.drop_after(5)
    log.append({"step": 2})
    assert log.entries() == [{"step": 1}, {"step": 2}]
