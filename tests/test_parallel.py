"""One run in several processes: the same mixtures, the same losses, one set of files; and what happens when one goes."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sepstream_training import processes
from sepstream_training.cli import train_main
from sepstream_training.parallel import SharedNorm, SharedNorm2d, SharedNorms
from sepstream_training.processes import Machines
from sepstream_training.share import Share
from training_runs import log, one_line, read, run

HERE = Path(__file__).parent
SMALL = [
    "data.synthetic_seconds=2",
    "data.valid_mixtures=3",
    "mix.seconds=0.5",
    "train.threads=1",
    "train.ema=0.5",
    "train.views=1",
]
CPU = ["--accelerator", "cpu"]

# ---- who hears what ---------------------------------------------------------------------------------------------------


@given(done=st.integers(0, 1000), count=st.integers(1, 5), size=st.integers(1, 7), batches=st.integers(1, 6))
def test_shares_deal_out_every_mixture_once_and_in_order(done: int, count: int, size: int, batches: int) -> None:
    shares = [Share(done, rank, count) for rank in range(count)]
    streams = [iter(share) for share in shares]
    for index in range(batches):
        heard = [[next(stream) for _ in range(size)] for stream in streams]
        assert heard == [list(share.batch(index, size)) for share in shares]
        first = done + index * size * count
        assert sorted(itertools.chain(*heard)) == list(range(first, first + size * count))
    total = count + batches
    assert sorted(n for share in shares for n in share.of(total)) == list(range(total))


# ---- the same run -----------------------------------------------------------------------------------------------------


def test_two_processes_learn_what_one_does_with_batches_twice_as_large(tmp_path: Path) -> None:
    """Both hear the same mixtures in a step, so only the order of float32 sums differs: each step moves a parameter by at
    most rate * 10, where its gradient is all rounding, and there the loss is flat. Hence a few ulp of a loss near 2.5."""
    arguments = ["tiny", *SMALL, "train.steps=2", "train.validate_every=1", "train.warmup_steps=0", "--quiet"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "error::UserWarning", str(HERE / "train_rank.py"), str(tmp_path), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    two = [
        subprocess.Popen(
            [*command, "train.batch=2", "--devices", "2", *CPU, "--out", str(tmp_path / "two")],
            env=environment | {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    assert train_main([*arguments, "train.batch=4", "--out", str(tmp_path / "one")]) == 0
    assert [process.wait(timeout=300) for process in two] == [0, 0]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    one, both = read(tmp_path / "one/last.ckpt"), read(tmp_path / "two/last.ckpt")
    assert one["mixtures"] == both["mixtures"] == 8
    assert one["state_dict"].keys() == both["state_dict"].keys()
    for row, other in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        figures = [name for name, value in row.items() if name.startswith("valid/") and value]
        assert {"valid/loss", "valid/si_sdri"} <= set(figures)
        assert [float(other[name]) for name in figures] == pytest.approx([float(row[name]) for name in figures], abs=2e-5)
    names = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1] == ["csv", "last.ckpt", "step=1.ckpt", "step=2.ckpt", "tb"]
    assert len(list((tmp_path / "two/tb").glob("events*"))) == 1


def test_ctrl_c_ends_all_processes_after_one_step_and_another_number_of_them_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["tiny", *SMALL, "train.steps=10000", "train.decay_steps=0", "train.validate_every=1", "--out", str(out)]
    code = "import sys; from sepstream_training.cli import train_main; sys.exit(train_main(sys.argv[1:]))"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--devices", "2", *CPU],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (out / "last.ckpt").exists() and parent.poll() is None:
        time.sleep(0.05)  # until there is something to interrupt
    parent.send_signal(signal.SIGINT)
    said, reported = parent.communicate(timeout=300)
    assert parent.returncode == 130, reported
    steps = read(out / "last.ckpt")["global_step"]
    assert said == ""
    assert reported.count("stopped at step") == 1
    assert f"stopped at step {steps} of 10000; to go on: sep-train tiny " in reported
    assert f"--devices 2 --accelerator cpu --out {out} --resume auto" in reported
    assert "Traceback" not in reported
    assert read(out / "last.ckpt")["mixtures"] == steps * 4 * 2
    more = [*SMALL, f"train.steps={steps + 1}", "train.decay_steps=0", "train.validate_every=1"]
    assert run(out, *more, "--resume", "auto") == 0
    assert read(out / "last.ckpt")["mixtures"] == steps * 4 * 2 + 4


@pytest.fixture
def group() -> Iterator[None]:
    """This process as a group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5), (4, 3, 5, 2)])
@pytest.mark.usefixtures("group")
def test_a_shared_norm_alone_is_torchs_own(shape: tuple[int, ...]) -> None:
    """Outputs, gradients, running statistics and what a checkpoint holds; there and back."""
    torch.manual_seed(0)
    kind, shared = (nn.BatchNorm2d, SharedNorm2d) if len(shape) == 4 else (nn.BatchNorm1d, SharedNorm)
    plain, model = kind(3), nn.Sequential(kind(3))
    SharedNorms().apply(model)
    assert type(model[0]) is shared
    x = (torch.randn(shape) * 3 - 8).requires_grad_()
    y = x.detach().clone().requires_grad_()
    for _ in range(3):
        ours, theirs = model(x), plain(y)
        torch.testing.assert_close(ours, theirs)
        (ours * ours.detach().sin()).sum().backward()
        (theirs * theirs.detach().sin()).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model[0].weight.grad, plain.weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model[0].state_dict(), plain.state_dict())
    torch.testing.assert_close(model.eval()(x), plain.eval()(y))
    SharedNorms().revert(model)
    assert type(model[0]) is kind
    torch.testing.assert_close(model[0].state_dict(), plain.state_dict())


# ---- when one goes: the parent's drills, with small programs in the place of a training ----------------------------------

HANG = "import time; time.sleep(60)"


def drill(monkeypatch: pytest.MonkeyPatch, *programs: str) -> int:
    """Program r as process r; ``say(line)`` is there for each -> exit status of the parent."""
    prelude = "import os, signal, sys, time\nfrom pathlib import Path\n"
    prelude += "def say(line): (Path(os.environ['SEPSTREAM_ERRORS']) / os.environ['LOCAL_RANK']).write_text(line)\n"
    choice = "".join(f"if os.environ['LOCAL_RANK'] == '{rank}':\n    {line}\n" for rank, line in enumerate(programs))
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, "-c", prelude + choice])
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    return processes.run([], Machines(devices=len(programs)))


@pytest.mark.parametrize(
    ("programs", "status"),
    [(["pass", "pass"], 0), (["sys.exit(130)", "sys.exit(130)"], 130), (["sys.exit(130)", HANG], 130)],
)
def test_a_run_that_ends_well_says_nothing(programs: list[str], status: int, monkeypatch: Any, capfd: Any) -> None:
    assert drill(monkeypatch, *programs) == status
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        (["say('no data'); sys.exit(2)", HANG], "no data"),
        (["time.sleep(0.5); say('peer is gone'); sys.exit(2)", "say('no memory'); sys.exit(2)"], "no memory"),
        (["sys.exit(3)", HANG], "process 0 of 2 ended with status 3; go on with --resume auto"),
        ([HANG, "os.kill(os.getpid(), signal.SIGKILL)"], "process 1 of 2 was ended by SIGKILL; go on with --resume auto"),
    ],
)
def test_one_that_fails_ends_all_and_is_named_in_one_line(programs: list[str], words: str, monkeypatch: Any, capfd: Any) -> None:
    assert drill(monkeypatch, *programs) == 2
    assert capfd.readouterr() == ("", f"sep-train: {words}\n")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_the_first_ctrl_c_is_passed_on_politely(number: str, monkeypatch: Any, capfd: Any) -> None:
    polite = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); "
    asks = f"{polite} time.sleep(0.5); os.kill(os.getppid(), signal.{number}); {HANG}"
    assert drill(monkeypatch, asks, f"{polite} {HANG}") == 130
    assert capfd.readouterr() == ("", "")


def test_the_second_ctrl_c_ends_all_at_once(monkeypatch: Any, capfd: Any) -> None:
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    asks = f"{stubborn} time.sleep(0.5); [(os.kill(os.getppid(), signal.SIGINT), time.sleep(0.3)) for _ in 'ab']; {HANG}"
    assert drill(monkeypatch, asks, f"{stubborn} {HANG}") == 2
    assert "was ended by SIGKILL; go on with --resume auto" in capfd.readouterr().err


def test_a_process_whose_parent_is_gone_stops_politely() -> None:
    code = (
        "import time; from sepstream_training.processes import obey_parent\n"
        "try: obey_parent(); time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(130)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), processes.STARTED_BY_US: "/nowhere"}
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=60) == 130


# ---- what is wrong is said --------------------------------------------------------------------------------------------


def test_nodes_that_cannot_find_each_other_are_told_how(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert run(tmp_path / "out", "--nodes", "2") == 2
    assert "--nodes 2: MASTER_ADDR, MASTER_PORT, NODE_RANK not set; set" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--accelerator", "gpu"], "--accelerator gpu: torch finds no GPU on this machine"),
        (["train.precision=16-mixed"], "'train.precision' is '16-mixed'; expected 32-true or bf16-mixed on a machine without"),
        (["--devices", "3", "data.valid_mixtures=2"], "'data.valid_mixtures' is 2; expected 3 or more, one for each process"),
    ],
    ids=str,
)
def test_what_this_machine_cannot_do_is_named(
    tmp_path: Path, arguments: list[str], words: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("LOCAL_RANK", "0")  # as one of several, not as their parent
    assert run(tmp_path / "out", *SMALL, *arguments) == 2
    assert words in one_line(capsys)


def test_more_gpus_than_there_are(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run(tmp_path / "out", *SMALL, "--devices", "2") == 2
    assert "--devices 2: this machine has 1 GPU(s); expected so many" in one_line(capsys)
