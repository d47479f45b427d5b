"""Run as a program, one of several started by hand: meets the others, then says what they all say.

python muster.py FOLDER [join]
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.errors import exit_cleanly


def main() -> None:
    folder = Path(sys.argv[1])
    rank = os.environ["PADDLE_TRAINER_ID"]
    if len(sys.argv) == 2:
        from ernie5.parallel.roll_call import call_roll, read_seat

        call_roll(read_seat(os.environ))
        (folder / rank).touch()
        return
    from ernie5.ops.runtime import start_paddle

    start_paddle(1)
    from ernie5.parallel.data_parallel import join

    ranks = join()
    said = ranks.gathered("ä" * ranks.rank)
    (folder / rank).write_text(str(said))


if __name__ == "__main__":
    exit_cleanly(main)
