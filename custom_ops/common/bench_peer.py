"""The other side of `bench.Peer`: runs the jobs of a script by name and tells the seconds. Needs no Paddle.

python bench_peer.py SCRIPT CASE_JSON THREADS
"""

import importlib.util
import json
import os
import sys
import time


def main() -> None:
    script, case, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    spec = importlib.util.spec_from_file_location("peer_script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    jobs = module.jobs(case, threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    print(json.dumps(list(jobs)), flush=True)
    for line in sys.stdin:
        job = jobs[line.strip()]
        begin = clock()
        job()
        print(clock() - begin, flush=True)


if __name__ == "__main__":
    main()
