"""Run as a program, one of several started by hand: meets the others, then says what they all say.

python muster.py FOLDER CONFIG_TEXT [join]
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.errors import exit_cleanly


def main() -> None:
    folder, text = Path(sys.argv[1]), sys.argv[2]
    rank = os.environ["PADDLE_TRAINER_ID"]
    if len(sys.argv) == 3:
        from ernie5.parallel.roll_call import call_roll, read_seat

        call_roll(read_seat(os.environ))
        (folder / rank).touch()
        return
    from ernie5.ops.runtime import start_paddle

    start_paddle(1)
    from ernie5.parallel.data_parallel import check_same, first_named, join

    ranks = join()
    said = ranks.gathered(f"{'ä' * ranks.rank}")
    named = first_named(ranks, "embed.weight" if ranks.rank == 1 else None), first_named(ranks, None)
    (folder / rank).write_text(f"{said} {named}")
    check_same(ranks, text)


if __name__ == "__main__":
    exit_cleanly(main)
