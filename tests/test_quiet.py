"""What is imported and printed where nothing is quantised, and how 4-bit still finds its layers."""

import os
import subprocess
import sys

from pulse_lib.files import REPOSITORY


def run(code: str) -> subprocess.CompletedProcess:
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_the_embedded_model_takes_one_thread_and_no_bitsandbytes():
    done = run(
        "import sys, torch\n"
        "from pulse_lib.model import adapters, load\n"
        "from pulse_lib.profile import load_profile\n"
        "model = load.load_model(load_profile('smoke').model, 'cpu')\n"
        "adapters.add_adapter(model, 'a', rank=2, alpha=2, trained_part='llm', seed=0)\n"
        "print('bitsandbytes' in sys.modules, torch.get_num_threads())"
    )
    assert done.stdout == "False 1\n", done.stdout + done.stderr
    assert "kernels" not in done.stderr


def test_four_bit_after_a_full_model_has_its_own_layers_and_says_what_is_slow(tmp_path):
    """peft has said by then that there is no bitsandbytes."""
    done = run(
        "import logging, tiny, pathlib\n"
        "from pulse_lib.model import adapters, load\n"
        "from pulse_lib.profile import ModelSettings\n"
        f"folder = tiny.save_tiny(pathlib.Path({str(tmp_path)!r}))\n"
        "model = load.load_model(ModelSettings(path=str(folder), load='4bit'), 'cpu')\n"
        "adapters.add_adapter(model, 'a', rank=2, alpha=2, trained_part='llm', seed=0)\n"
        "kinds = {type(m).__name__ + ' of ' + type(m).__module__ for m in model.network.modules()}\n"
        "print([k for k in kinds if 'peft.tuners.lora' in k and 'Linear' in k])\n"
        "log = logging.getLogger('bitsandbytes.backends.cpu.ops')\n"
        "log.warning('Failed to load CPU gemm_4bit_forward from kernels-community: %s', 'x')"
    )
    assert done.stdout == "['Linear4bit of peft.tuners.lora.bnb']\n", done.stdout + done.stderr
    assert "nothing has to be done" in done.stderr and "kernels-community" not in done.stderr
