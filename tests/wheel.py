"""Test the wheel as a user gets it: built, installed into an empty environment, and used from another folder.

    python -m tests.wheel [FOLDER]

Runs `seft --help`, one round on a tiny model from pruning to evaluation, the help of the other commands, twenty
cases of the kit and `import formats`; then the format alone, without numba. The exit status is 0 if all of it works.
The first command that fails is shown with its output.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.formats.test_plain import WRITES
from tests.seft_ref.folders import TEXT, hf_folder

ROOT = Path(__file__).resolve().parent.parent
LIGHT = {"numpy", "ml_dtypes", "formats"}
"""Packages that `import formats` may load besides the standard library."""
FORMATS_ALONE = f"""
import sys
before = set(sys.modules)
import formats
brought = {{name.split('.')[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names) - {LIGHT!r}
brought -= {{name for name in brought if name.startswith('_')}}
assert not brought, brought
"""
ROUND = ("prune", "convert", "finetune", "eval", "diff", "apply", "check", "show", "generate", "verify")
SHORT = ("--steps", 4, "--batch", 2, "--length", 8, "--evolve-every", 2, "--density", 0.2)


def run(*words: object, cwd: Path) -> str:
    """Run a command away from the checkout; return its output, or exit with the output and the status."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["NUMBA_OPT"] = "1"  # optimise little, because every loop is compiled again and runs only for a moment
    line = [str(word) for word in words]
    done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{done.stdout}{done.stderr}exit status {done.returncode}")
    return done.stdout


def main() -> None:
    """Build, install and use the wheel."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/wheel").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    away = folder / "away"
    away.mkdir(parents=True)
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # files of an earlier build would go into the wheel
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env")
    python, seft = folder / "env" / "bin" / "python", folder / "env" / "bin" / "seft"
    # do not compile all modules, because most of those that are installed are never imported
    install = ("install", "--quiet", "--no-compile", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=away)

    run(python, "-c", FORMATS_ALONE, cwd=away)
    told = run(seft, "--help", cwd=away)
    commands = [line.split()[0] for line in told.splitlines() if line.startswith("  ")]
    # the round below runs the others
    for name in set(commands) - set(ROUND):
        assert f"seft {name}" in run(seft, name, "--help", cwd=away), name

    dense = hf_folder(away / "dense")
    (away / "text.txt").write_text(TEXT)
    calibration = ("--calibration", "text.txt", "--length", 32)
    run(seft, "prune", dense, "pruned", "--method", "wanda", "--sparsity", 0.6, *calibration, cwd=away)
    run(seft, "convert", "pruned", "sparse", "--to", "sparse", cwd=away)
    run(seft, "finetune", "sparse", "tuned", "--text", "text.txt", *SHORT, "--log", "run.jsonl", cwd=away)
    run(seft, "eval", "tuned", "--text", "text.txt", "--length", 16, "--windows", 2, cwd=away)
    run(seft, "diff", "sparse", "tuned", "change", cwd=away)
    run(seft, "apply", "sparse", "change", "again", cwd=away)
    run(seft, "check", "again", cwd=away)
    run(seft, "show", "tuned", cwd=away)
    run(seft, "generate", "tuned", "the quick", "--max-tokens", 3, cwd=away)
    run(seft, "convert", "tuned", "back", "--to", "hf", cwd=away)

    told = run(python, "-m", "conformance", "--only", "select.*", "--examples", 0, "--backend", "numpy", cwd=away)
    passed = int(told.splitlines()[-1].split()[0])
    assert passed >= 20, told
    run(seft, "verify", "new-port", "python", "port", cwd=away)
    size = formats_alone(folder)
    print(f"{wheel.name}: {len(commands)} commands, one round, {passed} cases; formats alone {size / 1e6:.0f} MB")


def formats_alone(folder: Path) -> int:
    """Install the format alone, without numba, and use it; return the bytes of all packages but NumPy."""
    source = folder / "formats"
    shutil.copytree(ROOT / "formats", source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    venv.create(folder / "alone")
    python = folder / "alone" / "bin" / "python"
    install = ("install", "--quiet", "--no-compile", "--disable-pip-version-check", source)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    run(python, "-c", WRITES, folder / "away", "without", cwd=folder / "away")
    (packages,) = (folder / "alone").glob("lib/python*/site-packages")
    others = [path for path in packages.iterdir() if not path.name.startswith("numpy")]
    size = sum(file.stat().st_size for path in others for file in path.rglob("*") if file.is_file())
    assert size <= 30_000_000, size
    return size


if __name__ == "__main__":
    main()
