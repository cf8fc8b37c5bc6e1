"""Let a model go on from a prompt: seft generate DIR "The state of the union is" --seed 1"""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from conformance.report.visible import visible
from seft_cli import console
from seft_cli.device import Device, DeviceOption, place_of
from seft_cli.input import MaxBytes, limit_of, require_input
from seft_cli.interrupt import interrupts
from seft_ref import Sampling, generate
from seft_ref.files.model import open_folder, read_config
from seft_ref.runs.generate import TOKENS
from seft_ref.text.chat import chat_writer
from seft_ref.text.sampling import VARIED


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Sparse checkpoint or Hugging Face folder.")],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="Text to go on from; - reads it from standard input.")
    ],
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens at most.")] = TOKENS,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token, always; 1 draws as the model says.")
    ] = VARIED.temperature,
    top_k: Annotated[int | None, typer.Option(help="Draw among this many likeliest tokens [all].")] = None,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest tokens that share this probability.")] = (
        VARIED.top_p
    ),
    compact: Annotated[
        bool, typer.Option("--compact", help="Hold weights as they are stored, in 16 bits or as codes.")
    ] = False,
    device: DeviceOption = Device.cpu,
    seed: Annotated[int, typer.Option(help="Another seed, another text.")] = VARIED.seed,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the folder's chat template.")] = False,
    max_bytes: MaxBytes = None,
    threads: console.Threads = None,
) -> None:
    """Continue PROMPT with the model in DIR, and print each piece of text as soon as it is generated."""
    limit = limit_of(max_bytes, require_input(folder))
    with open_folder(folder) as source:
        positions = read_config(source.files).max_position_embeddings
    place = place_of(device)
    sampling = Sampling(temperature, top_k, top_p, seed)
    text = _from_standard_input() if prompt == "-" else prompt
    if chat:
        text = chat_writer(folder)([{"role": "user", "content": text}], opens_answer=True)
    n_prompt, times = 0, [0.0]

    def begin(n_tokens: int) -> None:
        nonlocal n_prompt
        n_prompt, times[0] = n_tokens, time.perf_counter()

    def note(_: int) -> None:
        times.append(time.perf_counter())
        check()

    pieces = generate(
        folder,
        text,
        max_tokens=max_tokens,
        sampling=sampling,
        special_tokens=not chat,  # a chat template writes them itself
        on_prompt=begin,
        on_token=note,
        kernels=place.kernels,
        compact=compact,
        like=place.like,
        limit=limit,
    )
    end = ""
    try:
        with interrupts() as check:
            for piece in pieces:
                _print(piece)
    except KeyboardInterrupt:
        end = ", interrupted"
    _print("\n")
    print(f"{_speed(n_prompt, *times)}{end}", file=sys.stderr)
    n_new = len(times) - 1
    # GEN-007.2: the last token is preceded by as many as the model has positions
    if n_new < max_tokens and n_prompt + n_new > positions:
        print(f"ended because the {positions} positions of the model are full", file=sys.stderr)
    if end:
        raise typer.Exit(130)


def _from_standard_input() -> str:
    """Return standard input as text, without a line feed at its end."""
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise console.Refused(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None


def _print(piece: str) -> None:
    """Write text as UTF-8 whatever the locale; on a terminal hidden characters are escaped (FMT-167)."""
    # FMT-167: the text of a model is foreign; joiners are kept, because some scripts need them
    piece = visible(piece, keep="\n\t\u200c\u200d") if sys.stdout.isatty() else piece
    sys.stdout.buffer.write(piece.encode(errors="replace"))
    sys.stdout.buffer.flush()


def _speed(n_prompt: int, started: float, *times: float) -> str:
    """Return the time of the prompt and the tokens per second, without the first, which needs the whole prompt."""
    if not times:
        return f"prompt of {n_prompt} tokens"
    text = f"prompt of {n_prompt} tokens in {times[0] - started:.2f} s, {len(times)} new"
    if len(times) < 2:
        return text
    return f"{text}, {(len(times) - 1) / (times[-1] - times[0]):.1f} tokens/s"
