"""Proves that the data commands pass on their arguments, report, and exit with the right status; tests/data tests the functions."""

import os

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("datasets", reason='reads data sets: pip install "mult-hf[data]"')

from mult_hf.cli import check, convert, main, render_doom, render_rooms
from mult_hf.inference.directory_lock import exclusive_run


@pytest.fixture
def taskonomy(tmp_path):
    """A download of Taskonomy with one view of depth."""
    for folder, pixels in (("rgb", np.zeros((8, 8, 3), np.uint8)), ("depth_zbuffer", np.full((8, 8), 1024, np.uint16))):
        (tmp_path / "download" / folder / "ihlen").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "download" / folder / "ihlen" / f"point_1_view_0_domain_{folder}.png")
    return tmp_path / "download"


def depth_file(download):
    return download / "depth_zbuffer/ihlen/point_1_view_0_domain_depth_zbuffer.png"


# --- convert


def test_a_benchmark_is_read_completely_and_reported(taskonomy, capsys):
    assert convert.main(["taskonomy", str(taskonomy), "--split", "test", "--tasks", "depth"]) == 0
    assert "Taskonomy test, depth: 1 samples, no problems" in capsys.readouterr().out
    assert sorted(path.name for path in taskonomy.parent.iterdir()) == ["download"], "nothing is written"


def test_a_repeated_conversion_counts_the_samples_of_finished_files(taskonomy, tmp_path, capsys):
    for _ in range(2):
        assert (
            convert.main(["taskonomy", str(taskonomy), "--split", "test", "--tasks", "depth", "--output_dir", str(tmp_path / "out")]) == 0
        )
        assert "Taskonomy test, depth: 1 samples, no problems" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["check", "x", "--sheet"], ["render", "rooms"]])
def test_a_folder_that_cannot_be_created_is_named_before_anything_is_read(tmp_path, capsys, words):
    (tmp_path / "file").touch()
    assert main.main([*words, str(tmp_path / "file/in/out.png")]) == 2
    assert f"the folder {tmp_path / 'file/in'}" in (said := capsys.readouterr().err)
    assert "cannot be created: Not a directory; give another" in said


def test_broken_files_are_counted_with_status_1_or_named_in_an_error(taskonomy, capsys):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(depth_file(taskonomy))
    words = ["taskonomy", str(taskonomy), "--split", "test", "--tasks", "depth"]
    assert convert.main([*words, "--on_error", "skip"]) == 1
    assert "1 x wrong bit depth" in capsys.readouterr().out
    assert main.main(["convert", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected uint16" in line


def test_a_converted_benchmark_passes_the_checker(taskonomy, tmp_path, capsys):
    convert.main(["taskonomy", str(taskonomy), "--split", "test", "--tasks", "depth", "--output_dir", str(tmp_path / "converted")])
    assert (tmp_path / "converted/data/test-00000-of-00005.parquet").is_file() or list((tmp_path / "converted/data").glob("test-*"))
    check.main([str(tmp_path / "converted"), "--split", "test", "--sheet", str(tmp_path / "sheet.png")])
    assert "depth  1 of 1 maps, stored uint16, decoded 2 to 2" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize("name", convert.BENCHMARKS)
def test_every_benchmark_opens_with_the_defaults_of_its_arguments(name, tmp_path):
    """Until the first error about the empty directory, so every reader accepts every argument by its name."""
    with pytest.raises(ValueError, match=str(tmp_path)):
        convert.main([name, str(tmp_path)])


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        convert.main(["cityscapes", "x"])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "invalid choice: 'cityscapes'" in line


def test_normals_need_three_signs(tmp_path):
    with pytest.raises(ValueError, match=r"--normals_signs is \[1.0, -1.0\]; give three factors"):
        convert.main(["nyuv2", str(tmp_path), "--normals_signs", "1", "-1"])


# --- check


def test_a_problem_gives_status_1(taskonomy, tmp_path, capsys):
    """A depth map with a single value looks wrong; one with several values looks right."""
    words = ["taskonomy", str(taskonomy), "--split", "test", "--tasks", "depth", "--output_dir"]
    convert.main([*words, str(tmp_path / "flat")])
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(taskonomy / "rgb/ihlen/point_1_view_0_domain_rgb.png")
    Image.fromarray(rng.integers(512, 2048, (8, 8)).astype(np.uint16)).save(depth_file(taskonomy))
    convert.main([*words, str(tmp_path / "varied")])
    assert [check.main([str(tmp_path / name)]) for name in ("flat", "varied")] == [1, 0]
    assert "WRONG: maps with a single value" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "message"), [(["--samples", "0"], "--samples is 0"), ([], "has no README.md")])
def test_data_that_cannot_be_checked_give_one_line_and_status_2(tmp_path, capsys, flags, message):
    assert main.main(["check", str(tmp_path), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# --- render


@pytest.fixture
def rendered_rooms(monkeypatch):
    """What would be rendered, without Mitsuba."""
    pytest.importorskip("mitsuba", reason='renders rooms: pip install "mult-hf[rooms]"')
    calls = []
    monkeypatch.setattr("mult_hf.data.synthetic.rooms.writing.write_dataset", lambda *arguments: calls.append(arguments))
    return calls


def test_the_flags_reach_the_renderer_of_rooms(rendered_rooms, tmp_path):
    words = "--rooms 30 --test_rooms 0 --views 2 --size 64 --spp 4 --seed 9 --num_proc 2 --variant scalar_rgb".split()
    assert render_rooms.main([str(tmp_path / "set"), *words]) == 0
    ((directory, settings, library, processes, cluster),) = rendered_rooms
    assert (directory, library, processes, cluster) == (tmp_path / "set", None, 2, None)
    assert (settings.rooms, settings.validation_rooms, settings.test_rooms) == (30, 3, 0)
    assert (settings.views, settings.size, settings.samples_per_pixel, settings.seed, settings.variant) == (2, 64, 4, 9, "scalar_rgb")


def test_a_failing_variant_and_invalid_numbers_give_one_line(rendered_rooms, tmp_path, monkeypatch, capsys):
    assert main.main(["render", "rooms", str(tmp_path), "--size", "8", "--variant", "scalar_rgb"]) == 2
    assert "size is 8; " in capsys.readouterr().err.splitlines()[-1]

    def fail(wanted):
        raise RuntimeError("no LLVM runs")

    monkeypatch.setattr(render_rooms.variants, "choose_variant", fail)
    assert main.main(["render", "rooms", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "mult-hf render rooms: error: no LLVM runs\n"


def test_the_flags_reach_the_renderer_of_doom_and_missing_views_are_reported(tmp_path, monkeypatch, capsys):
    def write_dataset(directory, rendering):
        assert (directory, rendering.views, rendering.size, rendering.seed) == (tmp_path, 3, 32, 2)
        return {"MAP04": 2, "MAP05": 0}

    monkeypatch.setattr(render_doom, "write_dataset", write_dataset)
    render_doom.main([str(tmp_path), *"--levels MAP04 MAP05 --views 3 --size 32 --seed 2".split()])
    printed = capsys.readouterr()
    assert printed.out == f"2 views in {tmp_path}\n"
    assert "fewer views than requested, because no more suitable places were found: MAP05 0 of 1" in printed.err


# --- two runs


@pytest.mark.parametrize(
    "argv",
    [
        ["convert", "taskonomy", "{download}", "--split", "test", "--tasks", "depth", "--output_dir", "{out}"],
        ["render", "rooms", "{out}", "--rooms", "3", "--size", "32"],
        ["render", "doom", "{out}", "--views", "100", "--size", "32"],
    ],
    ids=lambda argv: argv[1],
)
def test_a_second_run_in_a_directory_is_refused_and_changes_nothing(argv, taskonomy, tmp_path, capsys, monkeypatch):
    """Renderers delete what a run left unfinished; of a run that still lives that is what it works on."""
    monkeypatch.setattr(render_rooms.variants, "choose_variant", lambda variant: ("scalar_rgb", None))
    argv = [word.format(download=taskonomy, out=tmp_path / "out") for word in argv]
    with exclusive_run(tmp_path / "out"):
        (tmp_path / "out/train-00000-of-00001.parquet.part").write_bytes(b"half")
        before = sorted(tmp_path.rglob("*"))
        assert main.main(argv) == 2
        assert sorted(tmp_path.rglob("*")) == before
    assert f"another run is writing to {tmp_path / 'out'}: process {os.getpid()}" in capsys.readouterr().err
