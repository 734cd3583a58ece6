"""Decoding ahead, writing and scoring behind: equal to all in turns, flat in memory, and interruptible."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import long_video
from helpers import small_networks as small
from helpers.long_video import LongVideo
from torch.utils._python_dispatch import TorchDispatchMode

from stm.evaluation.evaluate import Benchmark, evaluate
from stm.evaluation.video_evaluator import AHEAD, decode_frames, predict, segmenter_for
from stm.memory import MemoryPolicy
from stm.video import ArrayVideo

SECONDS = 20
"""How long a test waits for what should come at once."""
POLICY = MemoryPolicy(first=True, previous=True, every=None)


def until(reached):
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def network():
    return small.network(key_input="image")


def clip(name, objects=2, length=8, cls=ArrayVideo, **named):
    frames = small.frames(length, seed=len(name)).permute(0, 2, 3, 1).numpy()
    return cls(name, frames, small.masks(length, max(objects, 1)).numpy() * (objects > 0), **named)


def late(name):
    """Its second object enters at frame 4; nothing is known before frame 2."""
    video = clip(name, length=9, first_frames={1: 2, 2: 4})
    video.mask(2)[video.mask(2) == 2] = 0
    return video


def run(network, videos, output=None, **named):
    benchmark = Benchmark("b", videos, protocol="all", size=named.pop("size", None))
    return evaluate(network, POLICY, benchmark, output, progress=False, **named)


def results(folder):
    """All files but films, whose bytes hang on the encoder's threads, and all values but times and memory."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".mp4"):
        content = path.read_bytes()
        if path.suffix == ".json":
            values = json.loads(content)
            for key in ("seconds", "peak_bytes", "speed"):
                values.pop(key, None)
            content = json.dumps(values)
        found[str(path.relative_to(folder))] = content
    return found


@pytest.mark.parametrize(("workers", "size"), [(1, None), (3, None), (2, 24)])
def test_equal_to_all_in_turns(network, tmp_path, workers, size):
    for name, threads in (("turns", 0), ("behind", workers)):
        videos = [clip("one", objects=1), late("late"), clip("three", objects=3), clip("empty", objects=0)]
        run(network, videos, tmp_path / name, video=True, size=size, workers=threads)
    turns = results(tmp_path / "turns")
    assert len([name for name in turns if name.endswith(".png")]) == 8 + 9 + 8 + 8
    assert results(tmp_path / "behind") == turns


class Held(ArrayVideo):
    """A video whose truth is not to be had before `release`."""

    def __init__(self, *arguments, release, **named):
        super().__init__(*arguments, **named)
        self.release, self.asked = release, []
        self.first_frames = {1: 0}

    def frame(self, t):
        self.asked.append(t)
        return super().frame(t)

    def mask(self, t):
        if t > 0:
            assert self.release.wait(SECONDS), "scoring holds inference up"
        return super().mask(t)


def test_inference_does_not_wait_for_scoring(network):
    """All frames of two videos are segmented before the first score of the first is taken."""
    release = threading.Event()
    first = clip("first", length=4, cls=Held, release=release)
    second = clip("second", length=4, cls=Held, release=release)

    class Last(ArrayVideo):
        def frame(self, t):
            release.set()
            return super().frame(t)

    scores = run(network, [first, second, clip("last", cls=Last, length=3)], workers=4)
    assert [len(row.j) for row in scores.objects[:2]] == [3, 3]


def test_no_more_than_some_frames_are_under_way(network):
    """With scoring at a standstill, inference stops after a few frames, and then all come to their end."""
    release = threading.Event()
    video = clip("long", length=60, cls=Held, release=release)
    thread = threading.Thread(target=run, args=(network, [video]), kwargs={"workers": 2})
    thread.start()
    held = -1
    while len(video.asked) != held:  # until nothing moves
        held = len(video.asked)
        time.sleep(0.5)
    release.set()
    thread.join(SECONDS)
    assert 4 * 2 < held <= 4 * 2 + 2 + AHEAD
    assert video.asked == list(range(60))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("broken", ["frame", "mask"])
def test_an_error_names_its_video_and_frame(network, tmp_path, workers, broken):
    """It surfaces soon, sequences before it are finished, and the run can be gone on with."""

    class Broken(LongVideo):
        asked = 0

        def frame(self, t):
            self.asked = t
            if broken == "frame" and t == 3:
                raise OSError("unreadable")
            return super().frame(t)

        def mask(self, t):
            if broken == "mask" and t == 3:
                raise OSError("unreadable")
            return super().mask(t)

    threads = threading.active_count()
    video = Broken("broken", 500, (32, 48))
    with pytest.raises(OSError, match="unreadable") as raised:
        run(network, [clip("first"), video, clip("never")], tmp_path, workers=workers)
    assert raised.value.__notes__ == ["in video broken, frame 00003"]
    assert video.asked < 100
    assert [path.name for path in (tmp_path / "sequences").iterdir()] == ["first.json"]
    assert not (tmp_path / "masks" / "never").exists() and not list(tmp_path.rglob("*.part*"))
    assert threading.active_count() == threads

    whole = [clip("first"), LongVideo("broken", 500, (32, 48))][:1]
    before = (tmp_path / "sequences" / "first.json").stat().st_mtime_ns
    run(network, whole, tmp_path, workers=workers)
    assert (tmp_path / "sequences" / "first.json").stat().st_mtime_ns == before


def test_a_full_disk_is_told_and_nothing_counts_as_finished(network, tmp_path):
    """Masks that cannot be written: a file stands where their folder should be."""
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "one").write_text("")
    with pytest.raises(OSError, match="one") as raised:
        run(network, [clip("one"), clip("two")], tmp_path, workers=2)
    assert raised.value.__notes__[0].startswith("in video one, frame 0000")
    assert not (tmp_path / "sequences" / "one.json").exists()


def test_a_failing_run_gives_a_film_up(network, tmp_path):
    """It takes as long as it takes, and another run makes it."""

    class Broken(LongVideo):
        def frame(self, t):
            film = tmp_path / "overlays"
            while t == 5 and not (film.exists() and list(film.glob(".long*"))):
                time.sleep(0.001)  # until the film of the first video has begun
            if t == 5:
                raise OSError("unreadable")
            return super().frame(t)

    long = LongVideo("long", 150, (32, 48))
    with pytest.raises(OSError, match="unreadable"):
        run(network, [long, Broken("broken", 9, (32, 48))], tmp_path, workers=2, video=True)
    assert (tmp_path / "sequences" / "long.json").exists()
    assert not list((tmp_path / "overlays").glob("*.mp4*")) and not list(tmp_path.rglob(".*"))
    run(network, [long], tmp_path, workers=2, video=True)
    assert (tmp_path / "overlays" / "long.mp4").exists()


@pytest.mark.parametrize("every", [None, 2])
def test_the_frame_loop_asks_the_device_for_no_value(network, every):
    """On a GPU each would be a synchronization; at the first frame there may be some."""

    class Asked(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(function._schema.name)
            return function(*args, **(kwargs or {}))

    video = clip("one", length=12, first_frames={1: 0, 2: 0})
    segmenter = segmenter_for(network, MemoryPolicy(every=every), video, 24)
    for frame in decode_frames(video, segmenter):
        with Asked() as asked:
            predict(segmenter, frame)
        asking = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}
        assert frame.t == 0 or (len(asked.names) > 20 and not asking & set(asked.names))


def test_ctrl_c_stops_at_once_and_the_run_goes_on(tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    def press():
        until(lambda: (broken / "masks" / "video-1" / "00020.png").exists())
        pressed.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threads = threading.active_count()
    pressed, keys = [], threading.Thread(target=press)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        keys.start()
        with pytest.raises(KeyboardInterrupt):
            long_video.run(broken, [10, 10_000])
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - pressed[0] < 5
    keys.join()
    assert threading.active_count() == threads
    assert [path.name for path in (broken / "sequences").iterdir()] == ["video-0.json"]
    assert not (broken / "scores.json").exists() and not list(broken.rglob(".*"))
    kept = (broken / "sequences" / "video-0.json").stat().st_mtime_ns
    long_video.run(broken, [10, 40])
    assert (broken / "sequences" / "video-0.json").stat().st_mtime_ns == kept
    for path in (broken / "masks" / "video-1").iterdir():
        if int(path.stem) >= 40:
            path.unlink()
    long_video.run(whole, [10, 40], workers=0)
    assert results(broken) == results(whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_on_a_gpu_the_frame_loop_waits_for_nothing(tmp_path):
    """Any synchronization raises; and what comes of it is what all in turns gives."""
    network = small.network(key_input="image").cuda()
    video = clip("one", length=12, first_frames={1: 0, 2: 0})
    segmenter = segmenter_for(network, MemoryPolicy(every=2), video, 24)
    for frame in decode_frames(video, segmenter):
        if frame.t > 0:
            torch.cuda.set_sync_debug_mode("error")
        try:
            predicted = predict(segmenter, frame)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert predicted.labels().shape == (32, 48) and predicted.ended.seconds_since(predicted.began) > 0
    for name, workers in (("turns", 0), ("behind", 2)):
        run(network, [clip("one"), late("late")], tmp_path / name, workers=workers)
    assert results(tmp_path / "behind") == results(tmp_path / "turns")


@pytest.mark.slow
def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path):
    """1,500 frames: held, they would take 445 MB, their labels 148 MB. Masks are on the disk as they come."""
    output = tmp_path / "output"
    path = os.pathsep.join([str(Path(long_video.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "helpers.long_video", str(output), "1500"]
    subprocess.run(command, env=environment, check=True, timeout=600)
    watched = json.loads((output / "watched.json").read_text())
    segmented, drawn = watched[:15], watched[15:]
    assert [row["t"] for row in segmented] == list(range(0, 1500, 100)) and len(drawn) > 15
    for rows in (segmented, drawn):  # the encoder of the film comes to hold its share
        settled = [row["mb"] for row in rows[3:]]
        assert max(settled) - settled[0] < 50, watched
    assert all(row["t"] - 20 <= row["masks"] <= row["t"] for row in segmented), watched
